"""Who gets a slot, where everybody stands, and who is told what: the table of all jobs.

Owns every job from submit to its end. Counts and places are derived from the table each time, so
that they cannot drift. Runs on the loop's thread and never blocks; knows the workers only through
their supervisors.

A job whose worker died runs once more, alone in its worker, unless it was to blame for the death
(`synth.supervisor`) or its reader already has some of its audio.
"""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from synth.errors import SynthError
from synth.estimate import Estimator, wait_s
from synth.fair_queue import FairQueue
from synth.job_events import Mailbox, Reader, as_error
from synth.protocol import (
    Accepted,
    Audio,
    Cancel,
    Done,
    Failed,
    JobEvent,
    Played,
    Reason,
    Submit,
)
from synth.supervisor import Clock, Loss, Supervisor

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Work:
    """A job from submit to its end."""

    submit: Submit
    user: str
    since: float  # on the client's clock, like the next two
    reader: Reader
    continues: bool = False  # a piece of a text that had a slot before: nobody new
    started: float | None = None
    first_audio: float | None = None
    worker: Supervisor | None = None  # whose slot it has
    told: int | None = None  # the position its reader knows
    again: bool = False  # it was in a worker that died, and runs alone now
    over: bool = False  # its reader has had the end; its slot may be taken a moment longer

    @property
    def job_id(self) -> str:
        return self.submit.job_id


class Dispatcher:
    """Jobs between the callers and the workers."""

    def __init__(self, clock: Clock) -> None:
        self.workers: list[Supervisor] = []
        self._clock = clock
        self._jobs: dict[str, Work] = {}
        self._queue: FairQueue[Work] = FairQueue()
        self._estimator = Estimator()

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._jobs

    @property
    def waiting(self) -> int:
        """Jobs that had no slot yet."""
        return sum(not work.continues for work in self._queue)

    @property
    def has_free_slot(self) -> bool:
        """A job added now would start at once."""
        return not len(self._queue) and any(worker.free for worker in self.workers)

    def add(self, submit: Submit, user: str) -> Mailbox:
        """Take in a job; what comes back is told how it goes."""
        mailbox = Mailbox()
        self.add_for(mailbox, submit, user)
        return mailbox

    def add_for(
        self, reader: Reader, submit: Submit, user: str, *, continues: bool = False
    ) -> None:
        """Take in a job, for a reader who must expect to be told before this returns.

        continues: it is the next piece of what had a slot before, so it is not one job more, and
        comes before the user's others.
        """
        submit = replace(submit, user=user)
        work = Work(submit, user, self._clock(), reader, continues)
        self._jobs[work.job_id] = work
        self._queue.push(user, work, ahead=continues)
        self.dispatch()

    def work_s(self, text: str) -> float | None:
        """Expected seconds in a slot; None before anything was measured."""
        return self._estimator.work_s(len(text))

    # What a job's reader asks for.

    def position(self, job_id: str) -> int | None:
        work = self._jobs.get(job_id)
        if work is None or work.over:
            return None
        return 0 if work.worker else 1 + self._line.index(work)

    def eta_s(self, job_id: str) -> float | None:
        work = self._jobs.get(job_id)
        if work is None or work.over:
            return None
        left = self._left_s(work)
        if work.worker or left is None:
            return left
        queue = self._line
        wait = self.wait_s(queue[: queue.index(work)])
        return None if wait is None else wait + left

    def cancel(self, job_id: str) -> None:
        work = self._jobs.get(job_id)
        if work is None or work.over:
            return
        self._finish(work, Failed(job_id, Reason.CANCELLED, "The job was cancelled."))
        if work.worker:
            work.worker.send(Cancel(job_id))  # its slot is free when the worker says so
        else:
            self._remove(work)

    def played(self, message: Played) -> None:
        work = self._jobs.get(message.job_id)
        if work and work.worker:
            work.worker.send(message)

    # What a supervisor tells.

    def happened(self, worker: Supervisor, event: JobEvent) -> None:
        work = self._jobs.get(event.job_id)
        if work is None or work.worker is not worker:
            return
        match event:
            case Done() | Failed():
                self._finish(work, event)
                self._remove(work)
            case Accepted():
                pass  # places are ours to give
            case _:
                if isinstance(event, Audio) and work.first_audio is None:
                    work.first_audio = self._clock()
                if not work.over:
                    work.reader.put(event)

    def lost(self, loss: Loss) -> None:
        """Jobs of a dead worker: each fails, or is the next to run."""
        for work in [self._jobs[job_id] for job_id in reversed(loss.held)]:
            may_run_again = not (work.over or work.again or work.first_audio is not None)
            if may_run_again and work.job_id not in loss.blamed:
                logger.info("job %s: will run again, its worker ended", work.job_id)
                work.worker, work.started, work.again = None, None, True
                self._queue.push_front(work.user, work)
            else:
                self._finish(work, Failed(work.job_id, loss.reason, loss.detail))
                self._jobs.pop(work.job_id, None)
        self.dispatch()

    def fail(self, error: SynthError, *, waiting_only: bool = False) -> None:
        """End the waiting jobs, or all jobs, with one reason."""
        for work in list(self._queue if waiting_only else self._jobs.values()):
            self._finish(work, Failed(work.job_id, Reason.CRASHED, str(error)))
            if not work.worker:
                self._queue.remove(work.user, work)
                self._jobs.pop(work.job_id, None)  # a job's end can take others with it

    def dispatch(self) -> None:
        """Fill free slots in order of turns, then tell everybody whose place has changed."""
        while (work := self._queue.peek(self._held)) and (worker := self._worker_for(work)):
            self._queue.pop(self._held)
            work.worker, work.started = worker, self._clock()
            worker.take(work.submit)
            self._tell_place(work, 0)
        for position, work in enumerate(self._line, start=1):
            self._tell_place(work, position)

    @property
    def _held(self) -> Counter[str]:
        """How many slots each user has beyond one a job, by the length of a text."""
        works = self._jobs.values()
        return Counter(work.user for work in works if work.worker and work.continues)

    @property
    def _line(self) -> list[Work]:
        """Who waits, in order."""
        return list(self._queue.in_order(self._held))

    def wait_s(self, ahead: Iterable[Work] | None = None) -> float | None:
        """Expected seconds until a slot is free for whoever comes after `ahead` (None: all).

        None when that is not known: no worker is up, or nothing was measured yet.
        """
        queue = self._line if ahead is None else list(ahead)
        if not queue and any(worker.free for worker in self.workers):
            return 0.0
        slots = sum(worker.slots for worker in self.workers)
        running = [self._left_s(work) for work in self._jobs.values() if work.worker]
        waiting = [self._left_s(work) for work in queue]
        if not slots or None in running or None in waiting:
            return None
        return wait_s(
            [left for left in running if left is not None],
            [left for left in waiting if left is not None],
            slots,
        )

    def _left_s(self, work: Work) -> float | None:
        """Expected seconds in a slot a job still needs."""
        whole = self._estimator.work_s(len(work.submit.text))
        if whole is None or work.started is None:
            return whole
        return max(0.0, whole - (self._clock() - work.started))

    def _worker_for(self, work: Work) -> Supervisor | None:
        """The emptiest worker with a free slot; a job that runs again gets one for itself."""
        alone = {other.worker for other in self._jobs.values() if other.again and other.worker}
        free = [worker for worker in self.workers if worker.free and worker not in alone]
        if work.again:
            free = [worker for worker in free if not worker.held]
        return min(free, key=lambda worker: worker.held, default=None)

    def _remove(self, work: Work) -> None:
        """Its slot or its place in line is free now."""
        if not work.worker:
            self._queue.remove(work.user, work)
        self._jobs.pop(work.job_id, None)
        self.dispatch()

    def _tell_place(self, work: Work, position: int) -> None:
        if work.told != position and not work.over:
            work.told = position
            work.reader.put(Accepted(work.job_id, position))

    def _finish(self, work: Work, end: Done | Failed) -> None:
        """Tell the reader how it ended, and the log; the first end counts."""
        if work.over:
            return
        work.over = True
        work_s = None if work.started is None else self._clock() - work.started
        ttfa_s = None if work.first_audio is None else work.first_audio - work.since
        if isinstance(end, Done):
            assert work.started is not None and work_s is not None
            if not work.submit.draft:  # a part of the work
                self._estimator.learn(len(work.submit.text), work_s)
            queued_s = work.started - work.since
            timings = replace(end.timings, queued_s=queued_s, ttfa_s=ttfa_s or 0.0)
            work.reader.put(replace(end, timings=timings))
            audio_s, outcome = end.audio_s, "done"
        else:
            waiting, estimate_s = self.waiting, self.wait_s()
            work.reader.fail(as_error(end, waiting=waiting, estimate_s=estimate_s))
            audio_s, outcome = 0.0, end.reason.value
        ttfa = "-" if ttfa_s is None else f"{ttfa_s * 1000:.0f}"
        rtf = f"{work_s / audio_s:.2f}" if work_s is not None and audio_s else "-"
        logger.info(
            "job %s: audio_s=%.2f ttfa_ms=%s rtf=%s outcome=%s",
            *(work.job_id, audio_s, ttfa, rtf, outcome),
        )
