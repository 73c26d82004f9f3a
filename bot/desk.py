"""The desk where requests are taken in: admitted, followed to their end, delivered, written down.

Owns every job's task and ends them all when the bot stops. Knows how a request becomes a clip, a
file and sound in a channel; leaves the words to `replies` and errors to whoever made it.
"""

import asyncio
import io
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol

import discord

from bot import replies
from bot.answer import Answer, StatusLine
from bot.config import LimitsSection
from bot.errors import UserError
from bot.speech import Clip, Speech, SpeechRequest, Status, Utterance
from bot.store import JobRow, NewJob, Outcome, Refused, Store
from bot.transcode import Transcoder
from synth.audio import AudioFormat
from synth.errors import JobCancelled

logger = logging.getLogger(__name__)

Clock = Callable[[], float]
Fail = Callable[[Answer, BaseException, str], Awaitable[None]]

_PATIENCE_S = 1.0  # of Discord's 3 s, for the database
_STOP_S = 2.0  # for the last words of the jobs that a stop cuts off


class Player(Protocol):
    """A voice channel that takes an order's clip."""

    where: str  # for the caption

    def prepare(self) -> None:
        """Begin to join the channel."""
        ...

    async def play(self, clip: Clip, order: "Order") -> Awaitable[object]:
        """Queue the clip; what comes back ends with the playing. Both raise UserError."""
        ...

    async def close(self) -> None: ...


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


class Desk:
    """Takes orders.

    notice: what each server is told once, with its first clip.
    controls: the buttons under a job's status. fail: turns what went wrong into the answer.
    """

    def __init__(
        self,
        store: Store,
        speech: Speech,
        transcoder: Transcoder,
        limits: LimitsSection,
        *,
        notice: str = "",
        controls: Callable[[str], discord.ui.View],
        fail: Fail,
        clock: Clock,
    ) -> None:
        self._store = store
        self._speech = speech
        self._transcoder = transcoder
        self._limits = limits
        self._notice = notice
        self._controls = controls
        self._fail = fail
        self._clock = clock
        self._open: dict[str, tuple[Order, Utterance]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def take(self, order: Order, answer: Answer) -> None:
        """Admit the order, acknowledge it, and see to the rest in a task of its own.

        Raises UserError when a cap refuses it, and what `Speech.submit` raises.
        """
        if self._stopping:
            raise UserError(replies.STOPPING)
        job_id = order.request.job_id
        admission = asyncio.create_task(self._admit(order))
        await asyncio.wait({admission}, timeout=_PATIENCE_S)
        if not admission.done():  # a slow disk must not cost the 3 s; normally a refusal is private
            await answer.defer()
        refusal = await admission
        if refusal is not None:
            raise UserError(replies.refused(refusal))
        try:
            utterance = self._speech.submit(order.request)
        except BaseException as error:
            await self._store.job_ended(job_id, Outcome.FAILED, reason=_reason(error))
            raise
        self._open[job_id] = order, utterance
        # The task comes before the acknowledgement: whatever becomes of that, the job has an owner.
        task = asyncio.create_task(self._see_to(order, utterance, answer), name=f"job {job_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self, job_id: str) -> bool:
        """Call a job off; False when it is not open any more."""
        entry = self._open.pop(job_id, None)
        if entry is None:
            return False
        entry[1].cancel()
        return True

    def order(self, job_id: str) -> Order | None:
        entry = self._open.get(job_id)
        return entry[0] if entry else None

    def position(self, job_id: str) -> int | None:
        """The job's place in line: 0 is being worked on, None is over."""
        entry = self._open.get(job_id)
        return entry[1].position if entry else None

    def is_open(self, job_id: str) -> bool:
        """A task still sees to this job, if only to say that it was cancelled."""
        return any(task.get_name() == f"job {job_id}" for task in self._tasks)

    @property
    def open_orders(self) -> list[Order]:
        """Orders that wait or are worked on, oldest first."""
        return [order for order, _ in self._open.values()]

    async def row(self, job_id: str) -> JobRow | None:
        return await self._store.job(job_id)

    async def close(self) -> None:
        """End all jobs, each with a last word to whoever asked."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _admit(self, order: Order) -> Refused | None:
        return await self._store.admit(
            _row(order),
            per_user=self._limits.per_user,
            per_guild=self._limits.per_guild,
            cooldown_s=self._limits.cooldown_s,
        )

    async def _see_to(self, order: Order, utterance: Utterance, answer: Answer) -> None:
        job_id = order.request.job_id
        try:
            await answer.defer()
            if order.player is not None:
                order.player.prepare()
            clip = await self._speak(order, utterance, answer)
            self._open.pop(job_id, None)
            await self._deliver(order, clip, answer)
        except asyncio.CancelledError:
            await self._interrupt(order, answer)
            raise
        except JobCancelled:
            await self._store.job_ended(job_id, Outcome.CANCELLED)
            await answer.finish(replies.CANCELLED)
        except Exception as error:
            await self._store.job_ended(job_id, Outcome.FAILED, reason=_reason(error))
            await self._fail(answer, error, job_id)
        finally:
            self._open.pop(job_id, None)
            if order.player is not None:
                await order.player.close()

    async def _speak(self, order: Order, utterance: Utterance, answer: Answer) -> Clip:
        job_id = order.request.job_id
        view = self._controls(job_id)

        async def show(status: Status) -> None:
            known = answer.message_id
            await answer.show(replies.waiting(status), view)
            if known is None and answer.message_id is not None:
                await self._store.job_message(job_id, answer.message_id)

        async def started() -> None:
            await self._store.job_started(job_id)

        return await utterance.run(StatusLine(show, self._clock), started)

    async def _deliver(self, order: Order, clip: Clip, answer: Answer) -> None:
        """Post the clip, play it, or both. A channel that is lost does not lose the clip."""
        if not len(clip.samples):
            raise UserError(replies.NO_CLIP)
        if self._notice and order.guild_id is not None:
            if await self._store.claim_notice(order.guild_id, self._notice):
                order = replace(order, notes=(self._notice, *order.notes))
        playing: Awaitable[object] | None = None
        if order.player is not None:
            try:
                playing = await order.player.play(clip, order)
            except UserError as problem:
                order = replace(order, wants_file=True, notes=(*order.notes, str(problem)))
        await self._post(
            order, clip, answer, order.player.where if order.player and playing else ""
        )
        await self._store.job_ended(order.request.job_id, Outcome.DONE, audio_s=clip.audio_s)
        if playing is not None:
            try:
                await playing
            except UserError as problem:
                order = replace(order, wants_file=True, notes=(*order.notes, str(problem)))
                await self._post(order, clip, answer)

    async def _post(self, order: Order, clip: Clip, answer: Answer, where: str = "") -> None:
        notes, file = order.notes, None
        if order.wants_file:
            encoded = await self._transcoder.encode_clip(
                clip.samples, clip.sample_rate, order.fmt, limit_bytes=order.limit_bytes
            )
            notes += encoded.notes
            file = _file_maker(encoded.data, f"bark-{order.request.job_id}{encoded.suffix}")
        await answer.finish(replies.caption(order.request.text, clip, notes, where), file)

    async def _interrupt(self, order: Order, answer: Answer) -> None:
        """The bot stops: what can still be said is said, but nobody waits long for it."""
        await self._store.job_ended(
            order.request.job_id, Outcome.INTERRUPTED, reason="the bot was stopped"
        )
        try:
            async with asyncio.timeout(_STOP_S):
                await answer.finish(replies.STOPPING)
        except (TimeoutError, discord.HTTPException) as error:
            logger.info("job %s: nobody could be told: %s", order.request.job_id, error)


def _file_maker(data: bytes, name: str) -> Callable[[], discord.File]:
    return lambda: discord.File(io.BytesIO(data), name)


def _row(order: Order) -> NewJob:
    request = order.request
    return NewJob(
        job_id=request.job_id,
        user_id=order.user_id,
        guild_id=order.guild_id,
        channel_id=order.channel_id,
        voice=request.voice,
        seed=request.sampling.seed,
        text_length=len(request.text),
    )


def _reason(error: BaseException) -> str:
    return type(error).__name__
