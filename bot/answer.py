"""The one message that answers a request: acknowledged, kept up to date, then the result.

Knows Discord's clocks: 3 s to acknowledge, 15 min for the interaction's token, at most one status
edit in 2 s. Does not know what the words say.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import aiohttp
import discord

from bot.speech import Status

logger = logging.getLogger(__name__)

EDIT_PERIOD_S = 2.0
# Discord's limit is 15 minutes from the interaction's making; what is in flight needs a reserve.
TOKEN_LIFE_S = 14 * 60.0

_QUIET_S = 5.0

NOBODY = discord.AllowedMentions.none()


class Answer:
    """The answer to one interaction. One task at a time writes to it."""

    def __init__(
        self,
        interaction: discord.Interaction[discord.Client],
        clock: Callable[[], float],
        *,
        ephemeral: bool = False,
    ) -> None:
        self.message_id: int | None = None
        self._interaction = interaction
        self._clock = clock
        self._born = clock()
        self._ephemeral = ephemeral
        self._unreachable = False
        self._showing: asyncio.Task[None] | None = None

    async def defer(self) -> None:
        """Acknowledge: Discord shows that the bot is at it."""
        if self._interaction.response.is_done():
            return
        try:
            await self._interaction.response.defer(thinking=True, ephemeral=self._ephemeral)
        except discord.NotFound:  # too late: the answer has to go another way
            logger.warning("an interaction was gone before it was acknowledged")
            self._unreachable = True

    @property
    def expired(self) -> bool:
        """The interaction takes no more answers; there is only the channel."""
        return self._unreachable or self._clock() - self._born >= TOKEN_LIFE_S

    def show(
        self,
        content: str,
        view: discord.ui.View | None = None,
        *,
        shown: Callable[[int], Awaitable[None]] | None = None,
    ) -> bool:
        """Begin to replace what the message says; False while the last time is still under way.

        Nobody waits for it: a slow or rate-limited Discord is not to hold up the clip, and a
        status that could not be shown is not worth failing a job for.
        shown: awaited with the message's id the first time.
        """
        if self._showing is not None and not self._showing.done():
            return False
        if not self.expired:
            self._showing = asyncio.create_task(self._show(content, view, shown))
        return True

    async def _show(
        self,
        content: str,
        view: discord.ui.View | None,
        shown: Callable[[int], Awaitable[None]] | None,
    ) -> None:
        try:
            message = await self._interaction.edit_original_response(
                content=content, view=view, allowed_mentions=NOBODY
            )
        except (discord.HTTPException, aiohttp.ClientError, OSError) as error:
            logger.info("a status could not be shown: %s", error)
            return
        if self.message_id is None:
            self.message_id = message.id
            if shown is not None:
                await shown(message.id)

    async def quiet(self) -> None:
        """Let a status that is under way arrive, so that it cannot overwrite what comes next."""
        if self._showing is not None:
            await asyncio.wait({self._showing}, timeout=_QUIET_S)
            self._showing.cancel()
            await asyncio.gather(self._showing, return_exceptions=True)

    async def finish(self, content: str, file: Callable[[], discord.File] | None = None) -> None:
        """Say the last word: in the message, or in the channel once the token is too old.

        file: makes the file to post; a second try needs a fresh one.
        Raises discord.HTTPException when the channel does not take it either.
        """
        await self.quiet()
        if not self.expired:
            try:
                await self._interaction.edit_original_response(
                    content=content,
                    attachments=[file()] if file else [],
                    view=None,
                    allowed_mentions=NOBODY,
                )
                return
            except discord.HTTPException as error:
                if error.status not in (401, 404):  # the token is spent, or the message is gone
                    raise
                logger.info("an answer goes to the channel instead: %s", error)
        await self._finish_in_channel(content, file)

    async def _finish_in_channel(
        self, content: str, file: Callable[[], discord.File] | None
    ) -> None:
        channel_id = self._interaction.channel_id
        if channel_id is None:
            return
        channel = self._interaction.client.get_partial_messageable(
            channel_id, guild_id=self._interaction.guild_id
        )
        if file:
            await channel.send(content, file=file(), allowed_mentions=NOBODY)
        else:
            await channel.send(content, allowed_mentions=NOBODY)
        if self.message_id is not None:
            try:
                await channel.get_partial_message(self.message_id).edit(
                    content="The answer is below.", view=None
                )
            except discord.HTTPException as error:
                logger.info("an old status stays: %s", error)


class StatusLine:
    """A job's status in its answer, edited at most once a period; the last word is never lost.

    Implements `bot.speech.Watcher`. show: begins an edit; False while one is under way.
    """

    def __init__(
        self,
        show: Callable[[Status], bool],
        clock: Callable[[], float],
        period_s: float = EDIT_PERIOD_S,
    ) -> None:
        self._show = show
        self._clock = clock
        self._period_s = period_s
        self._shown_at: float | None = None
        self._held: Status | None = None

    @property
    def due_s(self) -> float | None:
        if self._held is None or self._shown_at is None:
            return None
        return max(0.0, self._shown_at + self._period_s - self._clock())

    def update(self, status: Status) -> None:
        self._held = status
        if not self.due_s:
            self.flush()

    def flush(self) -> None:
        if self._held is not None:
            self._shown_at = self._clock()
            if self._show(self._held):
                self._held = None
