"""The desk where requests are taken in: admitted, followed to their end, written down.

Owns every job's task and ends them all when the bot stops. Knows how a request becomes a clip;
leaves the words to `replies`, the clip's way out to `delivery`, and errors to whoever made it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto

import discord

from bot import error_replies, replies
from bot.answer import UNREACHABLE, Answer, StatusLine
from bot.config import LimitsSection
from bot.delivery import Delivery, Ear, Making, Order
from bot.errors import StoreUnavailable, SynthUnavailable, Untold, UserError
from bot.speech import Clip, Speech, Status, Utterance
from bot.store import NewJob, Outcome, Refused, Store
from synth.errors import EngineFailed, JobCancelled

logger = logging.getLogger(__name__)

Clock = Callable[[], float]
Fail = Callable[[Answer, BaseException, str], Awaitable[None]]

_STOP_S = 2.0  # for the last words of the jobs that a stop cuts off


class CancelResult(Enum):
    CANCELLED = auto()
    ALREADY = auto()
    TOO_LATE = auto()  # the clip is made, and on its way out
    UNKNOWN = auto()  # no job of this run


@dataclass(frozen=True)
class _End:
    outcome: Outcome
    reason: str = ""
    audio_s: float | None = None


@dataclass(eq=False)
class _Job:
    order: Order
    utterance: Utterance
    cancelled: bool = False
    spoken: bool = False


class Desk:
    """Takes orders.

    controls: the buttons under a job's status. fail: turns what went wrong into the answer.
    ear: who hears clips that no voice channel takes, if somebody does.
    """

    def __init__(
        self,
        store: Store,
        speech: Speech,
        delivery: Delivery,
        limits: LimitsSection,
        *,
        controls: Callable[[str], discord.ui.View],
        fail: Fail,
        clock: Clock,
        ear: Callable[[Order, Making], Ear] | None = None,
    ) -> None:
        self._ear = ear
        self._store = store
        self._speech = speech
        self._delivery = delivery
        self._limits = limits
        self._controls = controls
        self._fail = fail
        self._clock = clock
        self._jobs: dict[str, _Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # one a job
        self._taking: set[asyncio.Task[None]] = set()  # one an order that is no job yet
        self._unwritten: dict[str, _End] = {}  # how jobs ended that the store has not taken yet
        self._stopping = False

    @property
    def overheard(self) -> bool:
        """Whether somebody hears clips while they are made that no voice channel takes."""
        return self._ear is not None

    async def take(self, order: Order, answer: Answer) -> None:
        """Admit the order, acknowledge it, and see to the rest in a task of its own.

        Raises UserError when a cap refuses it, SynthUnavailable while no worker can be started,
        StoreUnavailable when it cannot be written down, and what else `Speech.submit` raises.
        """
        if self._stopping:
            raise UserError(replies.STOPPING)
        taking = asyncio.create_task(self._take(order, answer))
        self._taking.add(taking)
        taking.add_done_callback(self._taking.discard)
        # Whatever becomes of the one who asked, an order that was written down becomes a job.
        await answer.in_time(asyncio.shield(taking))

    async def _take(self, order: Order, answer: Answer) -> None:
        job_id = order.request.job_id
        await self._write_ends()
        refusal = await self._admit(order)
        if refusal is not None:
            raise UserError(replies.refused(refusal))
        try:
            if self._stopping:
                raise UserError(replies.STOPPING)
            utterance = self._speech.submit(order.request)
        except Exception as error:
            outcome = Outcome.INTERRUPTED if self._stopping else Outcome.FAILED
            await self._ended(job_id, _End(outcome, _reason(error)))
            if isinstance(error, EngineFailed):
                raise SynthUnavailable(error_replies.engine_down(error)) from error
            raise
        job = self._jobs[job_id] = _Job(order, utterance)
        # The task comes before the acknowledgement: whatever becomes of that, the job has an owner.
        task = asyncio.create_task(self._see_to(job, answer), name=f"job {job_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self, job_id: str) -> CancelResult:
        """Call a job off; its answer says so."""
        job = self._jobs.get(job_id)
        if job is None:
            return CancelResult.UNKNOWN
        if job.cancelled:
            return CancelResult.ALREADY
        if job.spoken or job.utterance.position is None:
            return CancelResult.TOO_LATE
        job.cancelled = True
        job.utterance.cancel()
        return CancelResult.CANCELLED

    def stop(self, guild_id: int | None) -> set[str]:
        """Keep what is still being made for a server's voice channel from being heard there, and
        from being made where it is wanted for nothing else; the ids of those jobs.
        """
        stopped: set[str] = set()
        for job_id, job in self._jobs.items():
            player = job.order.player
            if job.order.guild_id == guild_id and player is not None and not job.spoken:
                job.cancelled |= not job.order.wants_file
                player.stop()
                stopped.add(job_id)
        return stopped

    def works(self, guild_id: int | None) -> list[tuple[Order, int]]:
        """A server's orders that are not spoken yet, with their place in line; 0 is in work."""
        jobs = [job for job in self._jobs.values() if job.order.guild_id == guild_id]
        places = [(job.order, job.utterance.position) for job in jobs if not job.spoken]
        found = [(order, place) for order, place in places if place is not None]
        return sorted(found, key=lambda pair: pair[1])

    async def close(self) -> None:
        """End all jobs, each with a last word to whoever asked."""
        self._stopping = True
        if self._taking:
            await asyncio.wait(self._taking)
        await asyncio.sleep(0)  # a task that is cancelled before it began would tell nobody
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._noted(self._write_ends())

    async def _admit(self, order: Order) -> Refused | None:
        request = order.request
        return await self._store.admit(
            NewJob(
                job_id=request.job_id,
                user_id=order.user_id,
                guild_id=order.guild_id,
                channel_id=order.channel_id,
                voice=request.voice,
                seed=request.sampling.seed,
                text_length=len(request.text),
            ),
            per_user=self._limits.per_user,
            per_guild=self._limits.per_guild,
            cooldown_s=self._limits.cooldown_s,
        )

    async def _see_to(self, job: _Job, answer: Answer) -> None:
        order, job_id = job.order, job.order.request.job_id
        stay: Callable[[], Awaitable[None]] | None = None
        cut = False  # whether what is heard already is to end at once
        try:
            await answer.defer()
            if order.player is not None:
                order.player.prepare(order, job.utterance)
            clip = await self._speak(job, answer)
            job.spoken = True
            stay = await self._delivery.deliver(order, clip, answer)
        except asyncio.CancelledError:
            cut = True
            await self._interrupt(job_id, answer)
            raise
        except Exception as error:
            cut = isinstance(error, JobCancelled)
            outcome = Outcome.CANCELLED if cut else Outcome.FAILED
            await self._ended(job_id, _End(outcome, _reason(error)))
            await self._fail(answer, error, job_id)
        else:  # from here on the answer stands, whatever happens
            await self._ended(job_id, _End(Outcome.DONE, audio_s=clip.audio_s))
        finally:
            del self._jobs[job_id]
            try:
                await answer.quiet()
            finally:
                if order.player is not None:
                    await order.player.close(cut=cut)
        if stay is not None:  # the job is over; what is left is to post a clip that is cut off
            try:
                await stay()
            except Exception as error:
                await self._fail(answer, error, job_id)

    async def _speak(self, job: _Job, answer: Answer) -> Clip:
        job_id, player = job.order.request.job_id, job.order.player
        view = self._controls(job_id)

        async def shown(message_id: int) -> None:
            await self._noted(self._store.job_message(job_id, message_id))

        def show(status: Status) -> bool:
            where = player.where if player is not None and player.heard else ""
            return answer.show(replies.waiting(status, where), view, shown=shown)

        async def started() -> None:
            await self._noted(self._store.job_started(job_id))

        watcher = StatusLine(show, self._clock)
        if player is not None or self._ear is None:
            return await job.utterance.run(watcher, started, player)
        ear, whole = self._ear(job.order, job.utterance), False
        try:
            clip = await job.utterance.run(watcher, started, ear)
            whole = True
            return clip
        finally:
            ear.end(whole=whole)

    async def _interrupt(self, job_id: str, answer: Answer) -> None:
        """The bot stops: what can still be said is said, but nobody waits long for it."""
        await self._ended(job_id, _End(Outcome.INTERRUPTED, "the bot was stopped"))
        try:
            async with asyncio.timeout(_STOP_S):
                await answer.finish(replies.STOPPING)
        except (Untold, *UNREACHABLE) as error:  # TimeoutError among them
            logger.info("job %s: nobody could be told: %s", job_id, error)

    async def _noted(self, note: Awaitable[None]) -> None:
        """Write down what is good to know, but not worth failing a job for."""
        try:
            await note
        except StoreUnavailable:
            pass  # the database has logged it

    async def _ended(self, job_id: str, end: _End) -> None:
        """Write down how a job ended. An open row would count against its user's cap for ever: what
        cannot be written now, as on a full disk, is tried again with the next job.
        """
        self._unwritten[job_id] = end
        await self._noted(self._write_ends())

    async def _write_ends(self) -> None:
        for job_id, end in list(self._unwritten.items()):
            await self._store.job_ended(job_id, end.outcome, reason=end.reason, audio_s=end.audio_s)
            self._unwritten.pop(job_id, None)


def _reason(error: BaseException) -> str:
    return type(error).__name__
