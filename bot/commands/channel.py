"""/join, /leave, /skip, /stop, /queue: the voice channel and what is on its way there."""

from collections.abc import Iterable

import discord
from discord import app_commands

from bot import replies
from bot.access import Interaction, check_access, is_manager
from bot.answer import NOBODY
from bot.delivery import Order
from bot.errors import UserError
from bot.playback import QueuedClip, VoiceSession, VoiceSessions
from bot.services import services_of


@app_commands.command(description="Bring the bot into your voice channel.")
@app_commands.guild_only()
async def join(interaction: Interaction) -> None:
    check_access(interaction, services_of(interaction).settings.discord)
    sessions, member = _sessions(interaction), _member(interaction)
    channel = member.voice.channel if member.voice else None
    if channel is None:
        raise UserError(replies.JOIN_FIRST)
    await interaction.response.defer(ephemeral=True, thinking=True)
    await sessions.join(channel, member)
    await interaction.followup.send(replies.joined(channel.mention), ephemeral=True)


@app_commands.command(description="Send the bot out of its voice channel.")
@app_commands.guild_only()
async def leave(interaction: Interaction) -> None:
    session = _session(interaction)
    _require_say(interaction, session.queue())
    await interaction.response.defer(ephemeral=True, thinking=True)
    await session.leave()
    await interaction.followup.send(replies.LEFT, ephemeral=True)


@app_commands.command(description="Skip the clip that is playing.")
@app_commands.guild_only()
async def skip(interaction: Interaction) -> None:
    session = _session(interaction)
    _require_say(interaction, [clip for clip in session.queue() if clip.playing])
    clip = session.skip()
    if clip is None:
        raise UserError(replies.NOTHING_PLAYS)
    await _say(interaction, replies.skipped(clip.title))


@app_commands.command(
    description="Stop playing, and drop what waits for the voice channel or is being made for it."
)
@app_commands.guild_only()
async def stop(interaction: Interaction) -> None:
    session, desk = _session(interaction), services_of(interaction).desk
    playing = session.queue()
    works = [order for order, _ in desk.works(interaction.guild_id) if order.player is not None]
    _require_say(interaction, playing, works)
    session.stop()
    stopped = {clip.job_id for clip in playing} | desk.stop(interaction.guild_id)
    await _say(interaction, replies.stopped(len(stopped)))


@app_commands.command(
    description="Show what is playing, what waits, and which clips are being made."
)
@app_commands.guild_only()
async def queue(interaction: Interaction) -> None:
    services = services_of(interaction)
    session = None
    if services.sessions is not None and interaction.guild is not None:
        session = services.sessions.get(interaction.guild)
    playing = session.queue() if session else ()
    heard = {clip.job_id for clip in playing}  # one that is still being made may be among them
    works = [
        (order.request.text, place)
        for order, place in services.desk.works(interaction.guild_id)
        if order.request.job_id not in heard
    ]
    content = replies.queue(playing, works)
    await interaction.response.send_message(content, ephemeral=True, allowed_mentions=NOBODY)


async def _say(interaction: Interaction, content: str) -> None:
    await interaction.response.send_message(content, allowed_mentions=NOBODY)


def _member(interaction: Interaction) -> discord.Member:
    if not isinstance(interaction.user, discord.Member):
        raise UserError(replies.SERVER_ONLY)
    return interaction.user


def _sessions(interaction: Interaction) -> VoiceSessions:
    sessions = services_of(interaction).sessions
    if sessions is None:
        raise UserError(replies.NO_VOICE_COMMANDS_HERE)
    return sessions


def _session(interaction: Interaction) -> VoiceSession:
    sessions = _sessions(interaction)
    session = sessions.get(_member(interaction).guild)
    if session is None:
        raise UserError(replies.BOT_NOT_IN_CHANNEL)
    return session


def _require_say(
    interaction: Interaction, clips: Iterable[QueuedClip], works: Iterable[Order] = ()
) -> None:
    """Raises UserError unless all of them are the member's own, or a manager asks."""
    if not is_manager(interaction):
        owners = {clip.requester_id for clip in clips} | {order.user_id for order in works}
        if owners - {interaction.user.id}:
            raise UserError(replies.NOT_YOUR_CLIP)
