"""The one message that answers a request: acknowledged, kept up to date, then the result.

Knows Discord's clocks: 3 s to acknowledge, 15 min for the interaction's token, at most one status
edit in 2 s; and the ways an answer can still go when the message is out of reach.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import aiohttp
import discord

from bot import replies
from bot.errors import Untold
from bot.speech import Status

T = TypeVar("T")
logger = logging.getLogger(__name__)

EDIT_PERIOD_S = 2.0
# Discord's limit is 15 minutes from the interaction's making; what is in flight needs a reserve.
TOKEN_LIFE_S = 14 * 60.0

PATIENCE_S = 1.5  # of the 3 s, until an answer is promised that might be a refusal
_QUIET_S = 5.0

NOBODY = discord.AllowedMentions.none()

# What saying something to Discord can raise: a refusal, or no connection.
UNREACHABLE = (discord.HTTPException, aiohttp.ClientError, OSError)

FileMaker = Callable[[], discord.File]


def is_too_large(error: discord.HTTPException) -> bool:
    """Whether Discord did not take a file for its size."""
    return error.status == 413 or error.code == 40005


class Answer:
    """The answer to one interaction. One task at a time writes to it.

    ephemeral: for the person alone, and never to be seen in the channel.
    """

    def __init__(
        self,
        interaction: discord.Interaction[discord.Client],
        clock: Callable[[], float],
        *,
        ephemeral: bool = False,
    ) -> None:
        self.message_id: int | None = None
        self.ephemeral = ephemeral
        self._interaction = interaction
        self._clock = clock
        self._born = clock()
        self._unreachable = False
        self._showing: asyncio.Task[None] | None = None
        self._deferring = asyncio.Lock()

    async def defer(self) -> None:
        """Acknowledge, once: Discord shows that the bot is at it."""
        async with self._deferring:
            if self._interaction.response.is_done():
                return
            try:
                await self._interaction.response.defer(thinking=True, ephemeral=self.ephemeral)
            except discord.NotFound:  # too late: the answer has to go another way
                logger.warning("an interaction was gone before it was acknowledged")
                self._unreachable = True

    async def in_time(self, work: Awaitable[T]) -> T:
        """Await what has to be known before the work can begin; a slow disk must not cost the 3 s.

        What is quick is not acknowledged: a refusal then is for the person alone.
        """
        task = asyncio.ensure_future(work)
        try:
            patience_s = self._born + PATIENCE_S - self._clock()
            await asyncio.wait({task}, timeout=max(0.0, patience_s))
            if not task.done():
                await self.defer()
            return await task
        finally:
            task.cancel()

    @property
    def expired(self) -> bool:
        """The interaction takes no more answers; they have to go another way."""
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
        except UNREACHABLE as error:
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

    async def finish(self, content: str, file: FileMaker | None = None) -> None:
        """Say the last word: in the message; in the channel once the token is too old; in a direct
        message when the channel is closed to the bot, or was not to see the answer.

        file: makes the file to post; another try needs a fresh one.
        Raises Untold when there is no way left, and discord.HTTPException when what is to be said
        is wrong in itself, as a file that `is_too_large`.
        """
        await self.quiet()
        if not self.expired and await self._finish_here(content, file):
            return
        if not self.ephemeral and await self._finish_in_channel(content, file):
            return
        await self._finish_in_private(content, file)

    async def _finish_here(self, content: str, file: FileMaker | None) -> bool:
        try:
            await self._interaction.edit_original_response(
                content=content,
                attachments=[file()] if file else [],
                view=None,
                allowed_mentions=NOBODY,
            )
        except discord.HTTPException as error:
            # The token is spent, the message is gone, files are forbidden, or Discord is unwell.
            if error.status not in (401, 403, 404) and error.status < 500:
                raise
            logger.info("an answer goes another way: %s", error)
            return False
        return True

    async def _finish_in_channel(self, content: str, file: FileMaker | None) -> bool:
        channel = self._channel()
        if channel is None:
            return False
        try:
            await _send(channel, content, file)
        except discord.HTTPException as error:
            if is_too_large(error):
                raise
            logger.info("an answer cannot be posted in channel %s: %s", channel.id, error)
            return False
        await self._point_at_it(replies.ANSWER_BELOW)
        return True

    async def _finish_in_private(self, content: str, file: FileMaker | None) -> None:
        try:
            content = replies.in_private(content, self._interaction.channel_id)
            await _send(self._interaction.user, content, file)
        except discord.HTTPException as error:
            if is_too_large(error):
                raise
            raise Untold(f"its asker cannot be reached: {error}") from error
        await self._point_at_it(replies.ANSWER_IN_PRIVATE)

    async def _point_at_it(self, content: str) -> None:
        """Let the old status say where the answer went."""
        channel = self._channel()
        try:
            if not self.expired:
                await self._interaction.edit_original_response(content=content, view=None)
            elif channel is not None and self.message_id is not None and not self.ephemeral:
                message = channel.get_partial_message(self.message_id)
                await message.edit(content=content, view=None)
        except UNREACHABLE as error:
            logger.info("an old status stays: %s", error)

    def _channel(self) -> discord.PartialMessageable | None:
        channel_id = self._interaction.channel_id
        if channel_id is None:
            return None
        return self._interaction.client.get_partial_messageable(
            channel_id, guild_id=self._interaction.guild_id
        )


async def _send(to: discord.abc.Messageable, content: str, file: FileMaker | None) -> None:
    if file:
        await to.send(content, file=file(), allowed_mentions=NOBODY)
    else:
        await to.send(content, allowed_mentions=NOBODY)


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
