"""Who may do what, where: roles, channels, and the permissions the bot itself needs.

Knows the settings' rules and Discord's permissions. Raises UserError; says nothing else.
"""

import discord

from bot import replies
from bot.config import DiscordSection
from bot.errors import UserError

Interaction = discord.Interaction[discord.Client]

CORE_PERMISSIONS = discord.Permissions(
    view_channel=True,
    send_messages=True,
    send_messages_in_threads=True,
    embed_links=True,
    attach_files=True,
    read_message_history=True,
    connect=True,
    speak=True,
)


def check_access(interaction: Interaction, rules: DiscordSection) -> None:
    """Raises UserError when a role or channel rule keeps this member from making the bot speak."""
    if rules.allowed_channels and not _here(interaction) & set(rules.allowed_channels):
        raise UserError(replies.NOT_HERE)
    user = interaction.user
    roles = {role.id for role in user.roles} if isinstance(user, discord.Member) else set[int]()
    if rules.blocked_role and rules.blocked_role in roles:
        raise UserError(replies.ROLE_BLOCKED)
    if rules.allowed_roles and not roles & set(rules.allowed_roles):
        raise UserError(replies.ROLE_MISSING)


def is_manager(interaction: Interaction) -> bool:
    return interaction.guild_id is not None and interaction.permissions.manage_guild


def require_manager(interaction: Interaction) -> None:
    if not is_manager(interaction):
        raise UserError(replies.MANAGERS_ONLY)


def require_file_permission(interaction: Interaction) -> None:
    """Raises UserError when the bot may not post files where it was asked."""
    if interaction.guild_id is not None and not interaction.app_permissions.attach_files:
        me = interaction.guild.me if interaction.guild else None
        if me is not None and me.is_timed_out():  # it takes the permissions away
            raise UserError(replies.BOT_TIMED_OUT)
        raise UserError(replies.missing_permissions(["attach_files"], "this channel"))


def invite_url(application_id: int) -> str:
    return discord.utils.oauth_url(
        application_id,
        permissions=CORE_PERMISSIONS,
        scopes=("bot", "applications.commands"),
    )


def _here(interaction: Interaction) -> set[int | None]:
    """The channel, and for a thread its parent."""
    parent = (
        interaction.channel.parent_id if isinstance(interaction.channel, discord.Thread) else None
    )
    return {interaction.channel_id, parent}
