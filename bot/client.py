"""The Discord client: what happens at login, and the one place where errors become replies.

Knows discord.py's life cycle: commands are synced in `setup_hook` and only when they changed,
buttons are registered by pattern. What a command does is in `bot.commands`.
"""

import hashlib
import json
import logging
import secrets
from collections.abc import Callable, Sequence

import discord
from discord import app_commands

from bot import error_replies, replies
from bot.access import Interaction, invite_url
from bot.answer import NOBODY, UNREACHABLE, Answer
from bot.buttons import DYNAMIC_ITEMS
from bot.commands import COMMANDS
from bot.errors import Untold
from bot.services import Services
from bot.store import JobRow

logger = logging.getLogger(__name__)

_TREE_HASH = "command_tree_hash"


class BarkTree(app_commands.CommandTree[discord.Client]):
    """Sends every error of a command to the client's one handler."""

    async def on_error(
        self, interaction: Interaction, error: app_commands.AppCommandError, /
    ) -> None:
        assert isinstance(self.client, BarkClient)
        await self.client.refuse(interaction, error)


class BarkClient(discord.Client):
    """Logged in by `bot.app`, which hands it its services before. tell: gets the invite's line."""

    services: Services

    def __init__(
        self, *, proxy: str | None = None, tell: Callable[[str], None] = logger.info
    ) -> None:
        super().__init__(
            intents=discord.Intents(guilds=True, voice_states=True),
            allowed_mentions=NOBODY,
            proxy=proxy,
            max_messages=None,
        )
        self.tree = BarkTree(
            self,
            allowed_contexts=app_commands.AppCommandContext(guild=True, dm_channel=True),
            allowed_installs=app_commands.AppInstallationType(guild=True),
        )
        for command in COMMANDS:
            self.tree.add_command(command)
        self._tell = tell
        self.interrupted: Sequence[JobRow] = ()  # jobs a crash left open, whose askers are told

    async def setup_hook(self) -> None:
        self.add_dynamic_items(*DYNAMIC_ITEMS)
        await self.sync_commands()
        assert self.application_id is not None
        self._tell(f"Invite the bot with {invite_url(self.application_id)}")

    async def sync_commands(self) -> bool:
        """Tell Discord the commands, unless it knows them: 200 creations a day are allowed."""
        commands = [command.to_dict(self.tree) for command in self.tree.get_commands()]
        text = json.dumps([self.application_id, commands], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        if await self.services.store.fact(_TREE_HASH) == digest:
            return False
        await self.tree.sync()
        await self.services.store.set_fact(_TREE_HASH, digest)
        logger.info("%d commands synced", len(commands))
        return True

    def is_well(self) -> bool:
        """Logged in, and the gateway is open: `is_ready` alone stays true when that is lost."""
        return self.is_ready() and not self.is_closed() and self.ws.open

    async def close(self) -> None:
        """Tell who waits, leave the voice channels, log out: each while the next still stands."""
        if not self.is_closed():
            await self.services.desk.close()
            if self.services.sessions is not None:
                await self.services.sessions.close()
        await super().close()

    async def on_ready(self) -> None:
        if self.services.sessions is not None:
            self.services.sessions.on_ready(self)
        rows, self.interrupted = self.interrupted, ()
        for row in rows:
            await self._tell_interrupted(row)

    async def on_guild_remove(self, guild: discord.Guild) -> None:
        # Of an outage discord.py makes on_guild_unavailable instead. `guild.unavailable` is not
        # to be asked here: it stays true when a guild goes away for good during an outage.
        if self.services.sessions is not None:
            self.services.sessions.on_guild_remove(guild)
        await self.services.store.forget_guild(guild.id)

    async def on_voice_state_update(
        self, member: discord.Member, before: discord.VoiceState, after: discord.VoiceState
    ) -> None:
        if self.services.sessions is not None:
            self.services.sessions.on_voice_state_update(member, before, after)

    async def on_guild_channel_delete(self, channel: discord.abc.GuildChannel) -> None:
        if self.services.sessions is not None:
            self.services.sessions.on_guild_channel_delete(channel)

    async def refuse(
        self, interaction: Interaction, error: BaseException, reference: str | None = None
    ) -> None:
        """The handler of every error in a command or button. The cases, in order:

        a foreseen one: its own sentence, to the person alone;
        a rule of Discord's own (a stale command, an option out of range): a sentence for it;
        anything else: logged with its traceback, one neutral line with the number it has there.
        """
        error = error_replies.cause_of(error)
        content = error_replies.foreseen(error)
        if content is None:
            reference = reference or secrets.token_hex(4)
            logger.error("unexpected error %s", reference, exc_info=error)
            content = error_replies.unexpected(reference)
        try:
            if interaction.response.is_done():
                await interaction.followup.send(content, ephemeral=True, allowed_mentions=NOBODY)
            else:
                await interaction.response.send_message(
                    content, ephemeral=True, allowed_mentions=NOBODY
                )
        except UNREACHABLE as failure:
            logger.warning("an error could not be told: %s", failure)

    async def fail_job(self, answer: Answer, error: BaseException, job_id: str) -> None:
        """The handler of every error in a job that was taken in."""
        if isinstance(error, Untold):  # every way was tried
            logger.warning("job %s: %s", job_id, error)
            return
        content = error_replies.sentence(error)
        if content is None:
            logger.error("unexpected error in job %s", job_id, exc_info=error)
            content = error_replies.unexpected(job_id)
        try:
            await answer.finish(content)
        except (Untold, *UNREACHABLE) as failure:
            logger.warning("job %s: its failure could not be told: %s", job_id, failure)

    async def _tell_interrupted(self, row: JobRow) -> None:
        if row.channel_id is None or row.message_id is None:
            return
        channel = self.get_partial_messageable(row.channel_id, guild_id=row.guild_id)
        try:
            await channel.get_partial_message(row.message_id).edit(
                content=replies.INTERRUPTED, view=None
            )
        except UNREACHABLE as error:
            logger.info("job %s: its asker could not be told: %s", row.job_id, error)
