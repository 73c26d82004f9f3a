"""The asking side: jobs in, events out, wherever the work runs. Needs an event loop, not torch.

The waiting jobs live here, and so does the order in which they get a slot; a backend is only given
what it can start at once. Everything here runs on the loop's thread and nothing here blocks it.

A job of a worker that died runs once more, alone in its worker, unless it was to blame for the
death (`synth.supervisor`) or its reader already has some of its audio.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from synth.backend import Backend as Backend
from synth.backend import ProcessBackend as ProcessBackend
from synth.errors import Busy, EngineFailed, InvalidRequest, SynthError
from synth.estimate import Estimator, wait_s
from synth.fair_queue import FairQueue
from synth.job_events import Job as Job
from synth.job_events import Mailbox, as_error
from synth.process import WorkerSettings as WorkerSettings
from synth.protocol import (
    Accepted,
    Audio,
    Cancel,
    Done,
    Failed,
    HistoryPrompt,
    JobEvent,
    Played,
    Ready,
    Reason,
    Sampling,
    Submit,
)
from synth.supervisor import Clock, Loss, Patience, Sleep, Supervisor

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Work:
    """A job from submit to its end."""

    submit: Submit
    user: str
    mailbox: Mailbox
    since: float
    started: float | None = None
    first_audio: float | None = None
    worker: Supervisor | None = None
    told: int | None = None  # the position its reader knows
    again: bool = False  # it was in a worker that died, and runs alone now
    over: bool = False  # its reader has had the end; only its slot may still be taken

    @property
    def job_id(self) -> str:
        return self.submit.job_id


class SynthClient:
    """One client in front of all backends. Use as `async with`; then `await ready()`.

    queue_limit: jobs that may wait; one more is refused with Busy.
    deadline_s: seconds of work one job may take, from its slot to its end.
    clock, sleep: for tests; one measures what the other waits for.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        *,
        queue_limit: int = 50,
        deadline_s: float = 300.0,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        patience: Patience | None = None,
    ) -> None:
        self.info: Ready | None = None
        self._queue_limit = queue_limit
        self._deadline_s = deadline_s
        self._clock = clock
        self._workers = [
            Supervisor(b, self, clock=clock, sleep=sleep, patience=patience or Patience())
            for b in backends
        ]
        self._given_up: dict[Supervisor, SynthError] = {}
        self._jobs: dict[str, _Work] = {}
        self._queue: FairQueue[_Work] = FairQueue()
        self._estimator = Estimator()
        self._settled = asyncio.Event()  # a backend came up, or one will never
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(worker.run()) for worker in self._workers]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed = True
        self._fail_all(self._jobs.values(), EngineFailed("The speech engine is shutting down."))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def ready(self) -> Ready:
        """Wait for the first backend; what it says of itself.

        Raises InvalidRequest when a backend's settings can never work (no such model), and
        EngineFailed when all have failed to start too often; they go on trying.
        """
        await self._settled.wait()
        for error in self._given_up.values():
            if isinstance(error, InvalidRequest) or self.info is None:
                raise error
        assert self.info
        return self.info

    @property
    def waiting(self) -> int:
        """Jobs that have no slot yet."""
        return len(self._queue)

    def estimate_s(self) -> float | None:
        """Expected seconds until a job submitted now gets a slot; None when nothing is known."""
        return self._wait_behind(list(self._queue))

    def submit(
        self,
        text: str,
        *,
        user: str,
        voice: str | HistoryPrompt | None = None,
        sampling: Sampling | None = None,
        job_id: str | None = None,
        utterance: int = 0,
    ) -> Job:
        """Ask for one utterance on behalf of `user`.

        Raises InvalidRequest for a text with nothing in it, Busy when the queue is full, and
        EngineFailed when no backend is up or expected to be.
        """
        if not text.strip():
            raise InvalidRequest("There is no text to speak.")
        if self._closed:
            raise EngineFailed("The speech engine is shutting down.")
        if len(self._given_up) == len(self._workers):
            raise next(iter(self._given_up.values()))
        if self.waiting >= self._queue_limit and not any(w.free for w in self._workers):
            raise self._busy()
        job_id = job_id or uuid.uuid4().hex
        if job_id in self._jobs:
            raise InvalidRequest(f"There is a job {job_id} already.")
        submit = Submit(
            job_id=job_id,
            text=text,
            voice=voice,
            sampling=sampling or Sampling(),
            utterance=utterance,
            deadline_s=self._deadline_s,
        )
        work = _Work(submit, user, Mailbox(), self._clock())
        self._jobs[job_id] = work
        self._queue.push(user, work)
        self._dispatch()
        return Job(job_id, user, work.mailbox, self)

    # What a Job asks for.

    def position(self, job_id: str) -> int | None:
        work = self._jobs.get(job_id)
        if work is None or work.over:
            return None
        return 0 if work.worker else 1 + list(self._queue).index(work)

    def eta_s(self, job_id: str) -> float | None:
        work = self._jobs.get(job_id)
        if work is None or work.over:
            return None
        if work.worker:
            return self._left_s(work)
        queue = list(self._queue)
        wait = self._wait_behind(queue[: queue.index(work)])
        own = self._left_s(work)
        return None if wait is None or own is None else wait + own

    def cancel(self, job_id: str) -> None:
        work = self._jobs.get(job_id)
        if work is None or work.over:
            return
        self._finish(work, Failed(job_id, Reason.CANCELLED, "The job was cancelled."))
        if work.worker:
            work.worker.send(Cancel(job_id))
        else:
            self._leave(work)

    def played(self, message: Played) -> None:
        work = self._jobs.get(message.job_id)
        if work and work.worker:
            work.worker.send(message)

    # What a Supervisor tells.

    def came_up(self, worker: Supervisor, ready: Ready) -> None:
        self.info = self.info or ready
        self._given_up.pop(worker, None)
        self._settled.set()
        self._dispatch()

    def happened(self, worker: Supervisor, event: JobEvent) -> None:
        work = self._jobs.get(event.job_id)
        if work is None or work.worker is not worker:
            return
        match event:
            case Done() | Failed():
                self._finish(work, event)
                self._leave(work)
            case Audio() if work.first_audio is None:
                work.first_audio = self._clock()
                self._tell(work, event)
            case Accepted():
                pass  # places are ours to give
            case _:
                self._tell(work, event)

    def lost(self, worker: Supervisor, loss: Loss) -> None:
        works = [self._jobs[job_id] for job_id in loss.held if job_id in self._jobs]
        for work in reversed(works):
            blamed = work.job_id in loss.blamed
            work.worker, work.started = None, None
            if work.over or blamed or work.again or work.first_audio is not None:
                self._finish(work, Failed(work.job_id, loss.reason, loss.detail))
                self._jobs.pop(work.job_id)
            else:
                logger.info("job %s: will run again, its worker ended", work.job_id)
                work.again = True
                self._queue.push_front(work.user, work)
        self._dispatch()

    def gave_up(self, worker: Supervisor, error: SynthError) -> None:
        self._given_up[worker] = error
        if isinstance(error, InvalidRequest) or len(self._given_up) == len(self._workers):
            self._settled.set()
        if len(self._given_up) == len(self._workers):
            self._fail_all(list(self._queue), EngineFailed(str(error)))

    # The rest is between these two.

    def _dispatch(self) -> None:
        """Fill free slots in order of turns, then tell everybody whose place has changed."""
        while (work := self._queue.peek()) and (worker := self._place_for(work)):
            self._queue.pop()
            work.worker, work.started = worker, self._clock()
            worker.take(work.submit)
            self._tell_position(work, 0)
        for position, work in enumerate(self._queue, start=1):
            self._tell_position(work, position)

    def _place_for(self, work: _Work) -> Supervisor | None:
        """The emptiest worker with a free slot; a job that runs again gets one for itself."""
        alone = {w.worker for w in self._jobs.values() if w.again and w.worker}
        free = [w for w in self._workers if w.free and w not in alone]
        if work.again:
            free = [w for w in free if not w.held]
        return min(free, key=lambda w: w.held, default=None)

    def _leave(self, work: _Work) -> None:
        """Its slot or its place in line is free now."""
        if not work.worker:
            self._queue.remove(work.user, work)
        self._jobs.pop(work.job_id, None)
        self._dispatch()

    def _finish(self, work: _Work, end: Done | Failed) -> None:
        """Tell the reader how it ended, and the log; the first end counts."""
        if work.over:
            return
        work.over = True
        now = self._clock()
        work_s = None if work.started is None else now - work.started
        ttfa_s = None if work.first_audio is None else work.first_audio - work.since
        match end:
            case Done():
                assert work.started is not None and work_s is not None
                self._estimator.learn(len(work.submit.text), work_s)
                timings = replace(
                    end.timings, queued_s=work.started - work.since, ttfa_s=ttfa_s or 0.0
                )
                work.mailbox.put(replace(end, timings=timings))
                audio_s, outcome = end.audio_s, "done"
            case Failed():
                work.mailbox.fail(as_error(end, waiting=self.waiting, estimate_s=self.estimate_s()))
                audio_s, outcome = 0.0, end.reason.value
        logger.info(
            "job %s: audio_s=%.2f ttfa_ms=%s rtf=%s outcome=%s",
            work.job_id,
            audio_s,
            "-" if ttfa_s is None else round(ttfa_s * 1000),
            f"{work_s / audio_s:.2f}" if work_s is not None and audio_s else "-",
            outcome,
        )

    def _fail_all(self, works: Iterable[_Work], error: SynthError) -> None:
        for work in list(works):
            self._finish(work, Failed(work.job_id, Reason.CRASHED, str(error)))
            if not work.worker:
                self._queue.remove(work.user, work)
                self._jobs.pop(work.job_id)

    def _tell(self, work: _Work, event: JobEvent) -> None:
        assert not isinstance(event, Failed)
        if not work.over:
            work.mailbox.put(event)

    def _tell_position(self, work: _Work, position: int) -> None:
        if work.told != position:
            work.told = position
            self._tell(work, Accepted(work.job_id, position))

    def _busy(self) -> Busy:
        estimate = self.estimate_s()
        soon = "" if estimate is None else f", about {round(estimate)} s"
        return Busy(
            f"The queue is full: {self.waiting} jobs are waiting{soon}. Try again later.",
            waiting=self.waiting,
            estimate_s=estimate,
        )

    def _left_s(self, work: _Work) -> float | None:
        """Expected seconds of work a job still needs."""
        whole = self._estimator.work_s(len(work.submit.text))
        if whole is None or work.started is None:
            return whole
        return max(0.0, whole - (self._clock() - work.started))

    def _wait_behind(self, ahead: list[_Work]) -> float | None:
        if not ahead and any(w.free for w in self._workers):
            return 0.0
        slots = sum(w.slots for w in self._workers)
        running = [self._left_s(w) for w in self._jobs.values() if w.worker]
        waiting = [self._left_s(w) for w in ahead]
        known = [s for s in running if s is not None], [s for s in waiting if s is not None]
        if not slots or len(known[0]) < len(running) or len(known[1]) < len(waiting):
            return None
        return wait_s(*known, slots)
