"""The asking side: jobs in, events out, wherever the work runs. Needs an event loop, not torch.

The waiting jobs live on this side (`synth.dispatcher`) and a backend is only given what it can
start at once, so a backend's death costs the jobs inside it at most.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from synth.backend import Backend as Backend
from synth.backend import ProcessBackend as ProcessBackend
from synth.dispatcher import Dispatcher
from synth.errors import Busy, EngineFailed, InvalidRequest, SynthError
from synth.job_events import Job as Job
from synth.protocol import HistoryPrompt, JobEvent, Ready, Sampling, Streaming, Submit
from synth.supervisor import Clock, Loss, Patience, Sleep, Supervisor
from synth.worker import WorkerSettings as WorkerSettings

logger = logging.getLogger(__name__)


class SynthClient:
    """One client in front of all backends. Use as `async with`; then `await ready()`.

    queue_limit: jobs that may wait; one more is refused with Busy.
    deadline_s: seconds of work one job may take, from its slot to its end.
    streaming: of jobs that do not say it themselves.
    clock, sleep: for tests; the one measures what the other waits for.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        *,
        queue_limit: int = 50,
        deadline_s: float = 300.0,
        streaming: Streaming = Streaming.EXACT,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        patience: Patience | None = None,
    ) -> None:
        if not backends:
            raise ValueError("a client needs at least one backend")
        self.info: Ready | None = None  # of the backend that came up first
        self._queue_limit = queue_limit
        self._deadline_s = deadline_s
        self._streaming = streaming
        self._jobs = Dispatcher(clock)
        self._jobs.workers = [
            Supervisor(backend, self, clock=clock, sleep=sleep, patience=patience or Patience())
            for backend in backends
        ]
        self._given_up: dict[Supervisor, SynthError] = {}
        self._settled = asyncio.Event()  # a backend came up, or one never will
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(worker.run()) for worker in self._jobs.workers]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed = True
        self._jobs.fail(EngineFailed("The speech engine is shutting down."))
        for task in self._tasks:
            task.cancel()
        for end in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(end, Exception):
                logger.error("A supervisor failed", exc_info=end)

    async def ready(self) -> Ready:
        """Wait for the first backend; what it says of itself.

        Raises InvalidRequest when a backend's settings can never work (no such model), and
        EngineFailed when all have failed to start too often; they go on trying.
        """
        await self._settled.wait()
        for error in self._given_up.values():
            if isinstance(error, InvalidRequest) or self._is_down:
                raise error
        assert self.info
        return self.info

    @property
    def waiting(self) -> int:
        """Jobs that have no slot yet."""
        return self._jobs.waiting

    def estimate_s(self) -> float | None:
        """Expected seconds until a job submitted now gets a slot; None when nothing is known."""
        return self._jobs.wait_s()

    def submit(
        self,
        text: str,
        *,
        user: str,
        voice: str | HistoryPrompt | None = None,
        sampling: Sampling | None = None,
        job_id: str | None = None,
        utterance: int = 0,
        streaming: Streaming | None = None,
    ) -> Job:
        """Ask for one utterance on behalf of `user`; users take turns.

        What a worker finds wrong with it (an unknown voice) is raised to the job's reader. Raises
        InvalidRequest for a text with nothing in it, Busy when the queue is full, EngineFailed
        while no backend can be started.
        """
        if not text.strip():
            raise InvalidRequest("There is no text to speak.")
        if self._closed:
            raise EngineFailed("The speech engine is shutting down.")
        if self._is_down:
            raise EngineFailed(str(next(iter(self._given_up.values()))))
        if self.waiting >= self._queue_limit and not self._jobs.has_free_slot:
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
            streaming=streaming or self._streaming,
            deadline_s=self._deadline_s,
        )
        return Job(job_id, user, self._jobs.add(submit, user), self._jobs)

    # What a Supervisor tells.

    def came_up(self, worker: Supervisor, ready: Ready) -> None:
        self.info = self.info or ready
        self._given_up.pop(worker, None)
        self._settled.set()
        self._jobs.dispatch()

    def happened(self, worker: Supervisor, event: JobEvent) -> None:
        self._jobs.happened(worker, event)

    def lost(self, worker: Supervisor, loss: Loss) -> None:
        self._jobs.lost(loss)

    def gave_up(self, worker: Supervisor, error: SynthError) -> None:
        self._given_up[worker] = error
        if self._is_down:
            self._jobs.fail(error, waiting_only=True)
        if self._is_down or isinstance(error, InvalidRequest):
            self._settled.set()

    @property
    def _is_down(self) -> bool:
        return len(self._given_up) == len(self._jobs.workers)

    def _busy(self) -> Busy:
        estimate = self.estimate_s()
        soon = "" if estimate is None else f"; a new one could start in about {estimate:.0f} s"
        return Busy(
            f"The queue is full ({self.waiting} waiting{soon}). Try again later.",
            waiting=self.waiting,
            estimate_s=estimate,
        )
