"""Keeps one backend alive: starts it, notices when it dies or wedges, restarts it with back-off.

Knows which jobs the backend holds and since when, nothing of users or of who reads the events. When
a life ends with jobs inside, it says which of them is to blame, as far as that can be told:

* a job past its deadline is to blame for a worker that had to be killed for it;
* a job that was alone in the worker is to blame for whatever ended the worker;
* among several, nobody is: the owner runs each of them once more, alone.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from synth.backend import Backend, WorkerLost
from synth.errors import EngineFailed, InvalidRequest, SynthError
from synth.protocol import (
    Beat,
    Cancel,
    Done,
    Event,
    Failed,
    JobEvent,
    Played,
    Ready,
    Reason,
    Submit,
)

logger = logging.getLogger(__name__)

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to wait for what, in seconds."""

    # One step is the fine stage over 1,024 frames: seconds on a slow CPU, more on a shared one.
    grace_s: float = 20.0  # past a deadline, for the worker to end the job itself
    stall_s: float = 180.0  # of silence while it holds jobs
    backoff_s: float = 0.5  # before the first restart; doubles with each in a row that did no work
    backoff_max_s: float = 30.0
    starts: int = 3  # failed starts in a row until everybody is told


@dataclass(frozen=True)
class Loss:
    """A life that ended: why, which jobs it held, and which of them are to blame."""

    reason: Reason
    detail: str
    held: tuple[str, ...]
    blamed: frozenset[str]


class Owner(Protocol):
    """Who is told. None of these may block or raise."""

    def came_up(self, worker: "Supervisor", ready: Ready) -> None: ...

    def happened(self, worker: "Supervisor", event: JobEvent) -> None: ...

    def lost(self, worker: "Supervisor", loss: Loss) -> None: ...

    def gave_up(self, worker: "Supervisor", error: SynthError) -> None:
        """Starting failed too often, or can never work. Where it can, starting goes on."""
        ...


class Supervisor:
    """One backend and the jobs in it."""

    def __init__(
        self, backend: Backend, owner: Owner, *, clock: Clock, sleep: Sleep, patience: Patience
    ) -> None:
        self._backend = backend
        self._owner = owner
        self._clock = clock
        self._sleep = sleep
        self._patience = patience
        self._held: dict[str, float] = {}  # job id -> when to kill the worker for its sake
        self._occupied = asyncio.Event()
        self._last_heard = 0.0
        self._up = False
        self._was_up = False
        self._did_work = False
        self._fault: WorkerLost | None = None  # why this life ends, when we know more than it does
        self._blamed: frozenset[str] = frozenset()

    @property
    def slots(self) -> int:
        return self._backend.slots if self._up else 0

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def free(self) -> int:
        return max(0, self.slots - len(self._held))

    def take(self, submit: Submit) -> None:
        """Put a job into a free slot."""
        assert self.free
        now = self._clock()
        if not self._held:
            self._last_heard = now  # it had no reason to speak before
        work_s = math.inf if submit.deadline_s is None else submit.deadline_s
        self._held[submit.job_id] = now + work_s + self._patience.grace_s
        self._occupied.set()
        self._backend.send(submit)

    def send(self, request: Cancel | Played) -> None:
        """Pass on a request about a held job. A cancelled one is held until the worker says so."""
        self._backend.send(request)

    async def run(self) -> None:
        """Life after life, until cancelled or until the settings prove to be wrong."""
        unstarted = 0  # in a row
        workless = 0  # attempts and lives in a row that finished no job
        patience = self._patience
        try:
            while True:
                try:
                    ready = await self._backend.start()
                except (InvalidRequest, EngineFailed) as error:
                    never = isinstance(error, InvalidRequest) and not self._was_up
                    # What can never work is raised to whoever waits for it, and said there.
                    level = logging.DEBUG if never else logging.ERROR
                    logger.log(level, "The synthesis worker did not start: %s", error)
                    if never:
                        self._owner.gave_up(self, error)
                        return
                    unstarted += 1
                    if unstarted >= patience.starts:
                        self._owner.gave_up(self, error)
                else:
                    unstarted = 0
                    await self._live(ready)
                    workless = 0 if self._did_work else workless
                delay = min(patience.backoff_s * 2.0**workless, patience.backoff_max_s)
                workless = min(workless + 1, 64)
                logger.info("Starting the synthesis worker again in %.1f s", delay)
                await self._sleep(delay)
        except Exception:  # a bug of ours must not leave everybody waiting
            logger.exception("The supervisor of a synthesis worker failed")
            self._bury(WorkerLost(Reason.CRASHED, "The speech engine failed."))
            self._owner.gave_up(self, EngineFailed("The speech engine failed."))
        finally:
            self._up = False
            await self._backend.close()

    async def _live(self, ready: Ready) -> None:
        """From Ready to the end of this life."""
        self._up = self._was_up = True
        self._did_work = False
        self._fault, self._blamed = None, frozenset()
        self._owner.came_up(self, ready)
        async with asyncio.TaskGroup() as tasks:
            watch = tasks.create_task(self._watch())
            try:
                async for event in self._backend.events():
                    self._hear(event)
                end = WorkerLost(Reason.CRASHED, "The speech engine stopped.")
            except WorkerLost as lost:
                end = lost
            finally:
                watch.cancel()
        self._up = False
        await self._backend.close(kill=True)
        self._bury(self._fault or end)

    def _hear(self, event: Event) -> None:
        self._last_heard = self._clock()
        match event:
            case Ready() | Beat():
                return
            case Failed(job_id="", reason=reason, detail=detail):
                self._fault = WorkerLost(reason, detail)  # its end of the queue follows
                return
            case Done(job_id=job_id) | Failed(job_id=job_id):
                self._did_work = True
                self._held.pop(job_id, None)
                if not self._held:
                    self._occupied.clear()
            case _:
                pass
        self._owner.happened(self, event)

    async def _watch(self) -> None:
        """Kill a worker that is past a job's deadline, or silent for too long, and say for whom."""
        while True:
            await self._occupied.wait()
            # Both only ever move later: while this sleeps, nothing can fall due before it wakes.
            silent = self._last_heard + self._patience.stall_s
            now, due = self._clock(), min(silent, *self._held.values())
            if now < due:
                await self._sleep(due - now)
                continue
            self._blamed = frozenset(j for j, at in self._held.items() if now >= at)
            self._fault = WorkerLost(
                Reason.TIMEOUT,
                "The clip took too long and was stopped."
                if self._blamed
                else "The speech engine stopped answering and was restarted.",
            )
            logger.error("Killing the synthesis worker: %s", self._fault)
            await self._backend.close(kill=True)
            return

    def _bury(self, end: WorkerLost) -> None:
        held, blamed = tuple(self._held), self._blamed
        self._held.clear()
        self._occupied.clear()
        if len(held) == 1:
            blamed = frozenset(held)
        self._owner.lost(self, Loss(end.reason, end.detail, held, blamed))
