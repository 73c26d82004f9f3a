"""From a finished clip to where it was asked for: a file, a voice channel, or both.

Knows what an order says of its destination. A channel that is lost does not lose the clip: it is
posted, with the reason.
"""

import io
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import discord
import numpy as np
import numpy.typing as npt

from bot import replies
from bot.answer import Answer, FileMaker, is_too_large
from bot.errors import StoreUnavailable, UserError
from bot.speech import Clip, SpeechRequest
from bot.store import Store
from bot.transcode import Transcoder
from synth.audio import AudioFormat

logger = logging.getLogger(__name__)


class Making(Protocol):
    """A clip that is being made, as whoever lets it be heard knows it."""

    @property
    def sample_rate(self) -> int: ...

    def played(self, seconds: float) -> None:
        """Tell how much of it has been heard."""
        ...

    def cancel(self) -> None: ...


class Ear(Protocol):
    """Where no voice channel takes it: who hears a clip while it is made, as the demo's page."""

    def hear(self, samples: npt.NDArray[np.float32], needed_s: float) -> None:
        """As `Player.hear`."""
        ...

    def end(self, *, whole: bool) -> None:
        """There is nothing more to come."""
        ...


class Player(Protocol):
    """A voice channel that takes an order's clip."""

    where: str  # for the caption

    @property
    def heard(self) -> bool:
        """Whether the clip has begun to sound."""
        ...

    def prepare(self, order: "Order", making: Making) -> None:
        """Begin to join the channel; `hear` and then `play` or `close` follow."""
        ...

    def hear(self, samples: npt.NDArray[np.float32], needed_s: float) -> None:
        """Take the next samples; they may be heard as soon as `needed_s` seconds have come.
        Neither waits nor raises.
        """
        ...

    async def play(self, clip: Clip, order: "Order") -> Awaitable[object]:
        """The clip is whole; what comes back ends with the playing. Both raise UserError."""
        ...

    def stop(self) -> None:
        """It is not to be heard, or no further; what is wanted for nothing else is not made."""
        ...

    async def close(self, *, cut: bool) -> None:
        """There is nothing more to come; cut: what has come is not to be heard either."""
        ...


@dataclass(frozen=True, kw_only=True)
class Order:
    """One request that passed every check but the caps."""

    request: SpeechRequest
    user_id: int
    guild_id: int | None
    channel_id: int | None
    fmt: AudioFormat
    limit_bytes: int
    wants_file: bool = True
    player: Player | None = None
    notes: tuple[str, ...] = ()

    def noting(self, *notes: str) -> "Order":
        return replace(self, notes=(*self.notes, *notes))

    def as_file(self, problem: UserError) -> "Order":
        """The same order when its channel is out of reach."""
        return replace(self.noting(str(problem)), wants_file=True, player=None)


class Delivery:
    """Delivers clips. `notice`: what each server is told once, with its first clip."""

    def __init__(self, store: Store, transcoder: Transcoder, *, notice: str = "") -> None:
        self._store = store
        self._transcoder = transcoder
        self._notice = notice

    async def deliver(
        self, order: Order, clip: Clip, answer: Answer
    ) -> Callable[[], Awaitable[None]] | None:
        """Answer with the clip. Returns what sees to it while it plays, if it does.

        Raises UserError when there is no sound or Discord does not take the file, SynthUnavailable
        when it cannot be encoded, and what else `Answer.finish` raises.
        """
        if not len(clip.samples):
            raise UserError(replies.NO_CLIP)
        if await self._is_news(order, answer):
            order = order.noting(self._notice)
        if order.player is not None:
            try:
                playing = await order.player.play(clip, order)
            except UserError as problem:
                order = order.as_file(problem)
            else:
                await self._post(order, clip, answer, where=order.player.where)
                return partial(self._until_played, playing, order, clip, answer)
        await self._post(order, clip, answer)
        return None

    async def _is_news(self, order: Order, answer: Answer) -> bool:
        if not self._notice or order.guild_id is None or answer.ephemeral:  # all are to see it
            return False
        try:
            return await self._store.claim_notice(order.guild_id, self._notice)
        except StoreUnavailable:  # next time
            return False

    async def _until_played(
        self, playing: Awaitable[object], order: Order, clip: Clip, answer: Answer
    ) -> None:
        try:
            await playing
        except UserError as problem:
            await self._post(order.as_file(problem), clip, answer)

    async def _post(self, order: Order, clip: Clip, answer: Answer, *, where: str = "") -> None:
        job_id, limit_bytes = order.request.job_id, order.limit_bytes
        if not order.wants_file:
            await answer.finish(replies.caption(order.request.text, clip, order.notes, where))
            return
        for _ in range(2):
            encoded = await self._transcoder.encode_clip(
                clip.samples, clip.sample_rate, order.fmt, limit_bytes=limit_bytes
            )
            notes = (*order.notes, *encoded.notes)
            file = _file_maker(encoded.data, f"bark-{job_id}{encoded.suffix}")
            try:
                await answer.finish(replies.caption(order.request.text, clip, notes, where), file)
                return
            except discord.HTTPException as error:
                if not is_too_large(error):
                    raise
            # The limit that came with the request is not the one Discord holds to.
            limit_bytes = len(encoded.data) // 2
            logger.warning("job %s: Discord refused a file of %d bytes", job_id, len(encoded.data))
        raise UserError(replies.FILE_REFUSED)


def _file_maker(data: bytes, name: str) -> FileMaker:
    return lambda: discord.File(io.BytesIO(data), name)
