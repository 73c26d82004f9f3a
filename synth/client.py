"""The asking side: jobs in, events out, wherever the work runs. Needs an event loop, not torch.

The waiting jobs live on this side (`synth.dispatcher`) and a backend is only given what it can
start at once, so a backend's death costs the jobs inside it at most.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary

from synth.alphabet import require_speech, spell
from synth.backend import Backend as Backend
from synth.backend import ProcessBackend as ProcessBackend
from synth.dialogue import complete_cast, utterances_of
from synth.dispatcher import Dispatcher
from synth.errors import Busy, EngineFailed, InvalidRequest, SynthError
from synth.estimate import StageShares
from synth.job_events import Job as Job
from synth.longform import language_of
from synth.performance import Performance
from synth.protocol import HistoryPrompt, JobEvent, Limits, Ready, Sampling, Streaming, Submit
from synth.recital import Manner as Manner
from synth.recital import Recital
from synth.supervisor import Clock, Loss, Patience, Sleep, Supervisor
from synth.worker import WorkerSettings as WorkerSettings

logger = logging.getLogger(__name__)

# Bark's, until the first worker is up and has said what it can take.
_UNKNOWN_LIMITS = Limits(slots=1, text_tokens=256, utterance_s=15.4)
_UNKNOWN_RATE = 24_000


class SynthClient:
    """One client in front of all backends. Use as `async with`; then `await ready()`.

    queue_limit: jobs that may wait; one more is refused with Busy.
    deadline_s: seconds of work one job may take, from its slot to its end.
    streaming, rerolls: of texts that do not say it themselves.
    clock, sleep: for tests; the one measures what the other waits for.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        *,
        queue_limit: int = 50,
        deadline_s: float = 300.0,
        streaming: Streaming = Streaming.EXACT,
        rerolls: int = 0,
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
        self._rerolls = rerolls
        self._clock = clock
        self._jobs = Dispatcher(clock)
        self._shares = StageShares()
        self._performances: WeakValueDictionary[str, Performance] = WeakValueDictionary()
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
        job_id = self._admit(job_id)
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

    def speak(
        self,
        text: str,
        *,
        user: str,
        manner: Manner | None = None,
        cast: Mapping[str, str] | None = None,
        language: str = "",
        job_id: str | None = None,
    ) -> Job:
        """Ask for a text of any length on behalf of `user`, as one job.

        It is cut into utterances that share the model's slots as far as nobody else waits for them;
        a dialogue, where it is one, has a voice for each speaker: those of `cast`, and others of
        the language. manner: voice, sampling and how the sound is wanted; what it leaves open is
        as the client was told. language: a code such as "de", where the letters leave a choice.
        Events, and what is raised, are those of `submit`; the sound is joined, in order.
        """
        info, manner = self.info, manner or Manner()
        spoken = [v.language for v in info.voices if v.name == manner.voice] if info else []
        language = language or next(iter(spoken), "")
        limits = info.limits if info else _UNKNOWN_LIMITS
        require_speech(text)
        utterances = utterances_of(text, limits, language, cast or ())
        if not utterances:
            raise InvalidRequest("There is no text to speak.")
        notes: tuple[str, ...] = ()
        if info:
            utterances, notes = spell(utterances, info.characters, info.languages)
        job_id = self._admit(job_id)
        manner = replace(
            manner,
            streaming=manner.streaming or self._streaming,
            rerolls=self._rerolls if manner.rerolls is None else manner.rerolls,
            deadline_s=manner.deadline_s or self._deadline_s,
        )
        voices = complete_cast(
            utterances, cast or {}, info.voices if info else (), language_of(text, language)
        )
        recital = Recital(
            job_id,
            utterances,
            replace(manner, cast={**manner.cast, **voices}),
            sample_rate=info.sample_rate if info else _UNKNOWN_RATE,
            shares=self._shares,
            notes=notes,
        )
        performance = Performance(
            recital, user, self._jobs, self._clock, lambda: not (self._closed or self._is_down)
        )
        self._performances[job_id] = performance
        named = {"": manner.voice if isinstance(manner.voice, str) else None, **voices}
        speakers = dict.fromkeys(utterance.speaker for utterance in utterances)
        heard = {name: named.get(name) for name in speakers} if any(speakers) else {}
        return Job(job_id, user, performance.mailbox, performance, heard)

    def _admit(self, job_id: str | None) -> str:
        """The id of a job that may be taken in now."""
        if self._closed:
            raise EngineFailed("The speech engine is shutting down.")
        if self._is_down:
            raise EngineFailed(str(next(iter(self._given_up.values()))))
        if self.waiting >= self._queue_limit and not self._jobs.has_free_slot:
            raise self._busy()
        job_id = job_id or uuid.uuid4().hex
        performance = self._performances.get(job_id)
        if job_id in self._jobs or (performance and not performance.mailbox.closed):
            raise InvalidRequest(f"There is a job {job_id} already.")
        return job_id

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
