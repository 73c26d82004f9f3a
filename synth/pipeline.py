"""text -> semantic -> coarse -> fine -> waveform. START HERE.

A `Pipeline` holds a model and B slots. Jobs are admitted into free slots and move through the
stages; each `step()` does one bounded piece of work, for one job or for all that are at the same
stage, and returns what happened. What a job produces does not depend on the other jobs. Knows
nothing of queues, processes or names of voices.
"""

import logging
import math
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from synth.coarse import CoarseStage
from synth.errors import InvalidRequest, JobTimeout
from synth.fine import FineStage
from synth.job import Job
from synth.model import Model
from synth.protocol import (
    Audio,
    Done,
    Failed,
    HistoryPrompt,
    JobEvent,
    Progress,
    Reason,
    Stage,
    Submit,
)
from synth.semantic import SemanticStage

logger = logging.getLogger(__name__)

# What lies between two looks at the world bounds how late an end, a cancel or another job is
# noticed: so much decode work, and no more steps than that, for an end wastes those behind it. On
# a GPU each look costs a synchronization.
_QUANTUM_S = 0.05
_MOST_STEPS = {"cpu": 4, "cuda": 8, "mps": 8}


class _Pace:
    """How many decode steps of a stage make a quantum, by how long the last ones took.

    `least` is what the stage can do at once, and every quantum is a multiple of it.
    """

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, max(least, most)
        self._step_s = math.inf

    @property
    def steps(self) -> int:
        fit = self._most
        if self._step_s * fit > _QUANTUM_S:
            fit = int(_QUANTUM_S / self._step_s)
        return max(self._least, fit // self._least * self._least)

    def took(self, steps: int, seconds: float) -> None:
        self._step_s = seconds / steps


class Pipeline:
    """Jobs in slots over one model. Not thread-safe: one thread owns it."""

    def __init__(
        self, model: Model, *, slots: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Allocates the caches of `slots` slots."""
        if slots < 1:
            raise InvalidRequest(f"There must be at least 1 slot, not {slots}.")
        self.model = model
        self.slots = slots
        self._clock = clock
        with torch.inference_mode():
            self._semantic = SemanticStage(model.semantic, model.config, slots=slots)
            self._coarse = CoarseStage(model.coarse, model.config, slots=slots)
            self._fine = FineStage(model.fine, model.config)
        self._jobs: list[Job | None] = [None] * slots
        self._turn = 0
        most = _MOST_STEPS[model.device.type]
        self._semantic_pace = _Pace(1, most)
        self._coarse_pace = _Pace(model.config.coarse.codebooks, most)

    @property
    def free(self) -> int:
        """Slots without a job."""
        return self._jobs.count(None)

    def admit(self, submit: Submit, history: HistoryPrompt | None) -> None:
        """Put a job into a free slot; `history` is the voice that `submit.voice` names, or None.

        Raises InvalidRequest for a text or setting that cannot work, RuntimeError when no slot is
        free.
        """
        if not self.free:
            raise RuntimeError("no slot is free")
        if any(job is not None and job.id == submit.job_id for job in self._jobs):
            raise RuntimeError(f"job {submit.job_id} is already admitted")
        slot = self._jobs.index(None)
        self._jobs[slot] = Job(submit, history, self.model, slot, self._clock())

    def cancel(self, job_id: str) -> bool:
        """Drop a job and free its slot at once. False when there is no such job."""
        for slot, job in enumerate(self._jobs):
            if job is not None and job.id == job_id:
                self._jobs[slot] = None
                return True
        return False

    def step(self) -> list[JobEvent]:
        """Do one bounded piece of work: one prefill, a few decode steps of all jobs at a stage,
        one forward pass of the fine stage, or a run of frames decoded. The stages take turns.

        A job past its `deadline_s` ends here, between two pieces of work, and the others go on;
        whoever watches this process need only see to a piece that never ends.

        Returns what happened, [] when there is no job.
        """
        if late := self._expire():
            return late
        stages = (Stage.CODEC, Stage.FINE, Stage.COARSE, Stage.SEMANTIC)
        for offset in range(len(stages)):
            stage = stages[(self._turn + offset) % len(stages)]
            jobs = [job for job in self._jobs if job is not None and job.can_run(stage)]
            if jobs:
                self._turn = (self._turn + offset + 1) % len(stages)
                return self._work(stage, jobs)
        return []

    def run(
        self,
        submit: Submit,
        history: HistoryPrompt | None,
        on_event: Callable[[JobEvent], None] | None = None,
    ) -> tuple[npt.NDArray[np.float32], Done]:
        """One job from its admission to its end: (N,) float32 samples and the Done event.

        Raises InvalidRequest when the job fails, JobTimeout past its deadline, RuntimeError when no
        slot is free.
        """
        self.admit(submit, history)
        pieces: list[npt.NDArray[np.float32]] = []
        try:
            while True:
                for event in self.step():
                    if event.job_id != submit.job_id:
                        continue
                    if on_event is not None:
                        on_event(event)
                    if isinstance(event, Audio):
                        pieces.append(event.samples)
                    elif isinstance(event, Failed):
                        late = event.reason is Reason.TIMEOUT
                        raise (JobTimeout if late else InvalidRequest)(event.detail)
                    elif isinstance(event, Done):
                        return np.concatenate(pieces), event
        finally:
            self.cancel(submit.job_id)

    def _expire(self) -> list[JobEvent]:
        now = self._clock()
        return [
            self._fail(job, Reason.TIMEOUT, "The clip took too long and was stopped.")
            for job in self._jobs
            if job is not None and now >= job.deadline
        ]

    def _fail(self, job: Job, reason: Reason, detail: str) -> Failed:
        self._jobs[job.slot] = None
        return Failed(job.id, reason, detail)

    @torch.inference_mode()
    def _work(self, stage: Stage, jobs: list[Job]) -> list[JobEvent]:
        """One piece of work at `stage` for the first or for all of `jobs`; time is shared out."""
        # Stages overlap, and a listener follows one bar: that of the first that is not done.
        told = {job.id for job in jobs if job.stage is stage}
        began = self._clock()
        if stage is Stage.SEMANTIC:
            worked = self._semantic_work(jobs)
        elif stage is Stage.COARSE:
            worked = self._coarse_work(jobs)
        elif stage is Stage.FINE:
            worked = self._fine_work(jobs)
        else:
            return self._codec_work(min(jobs, key=lambda job: job.served))
        now = self._clock()
        events: list[JobEvent] = []
        for job in worked:
            job.spent[stage] += (now - began) / len(worked)
            job.served = now
            if job.is_astray:
                logger.info("job %s: no end came, begun anew", job.id)
                job = self._jobs[job.slot] = job.anew()
            if job.is_to_be_scored:
                job.log_prob = self._semantic.log_prob(job.slot, job.semantic)
            if job.id in told:
                events.append(Progress(job.id, stage, job.fraction(stage)))
            if job.stage is None:
                detail = "The model ended the clip before it began; try another seed or wording."
                events.append(self._fail(job, Reason.INVALID, detail))
        return events

    def _semantic_work(self, jobs: list[Job]) -> list[Job]:
        for job in jobs:
            if not job.semantic_started:
                self._semantic.start(
                    job.slot, job.text_tokens, job.history, job.sampling, job.utterance
                )
                job.semantic_started = True
                return [job]
        left = (job.semantic_limit - len(job.semantic) for job in jobs)
        k = min([self._semantic_pace.steps, *left])
        began = self._clock()
        made = self._semantic.run(k, [job.slot for job in jobs])
        self._semantic_pace.took(k, self._clock() - began)
        for column, job in enumerate(jobs):
            job.add_semantic(made.tokens[:, column], made.ended[:, column])
        return jobs

    def _coarse_work(self, jobs: list[Job]) -> list[Job]:
        for job in jobs:
            if job.window_ends is None:
                if not job.coarse_started:
                    self._coarse.open(job.slot, job.sampling, job.utterance)
                    job.coarse_started = True
                window = job.coarse.window()
                extends = self._coarse.is_prefilled(job.slot, window)
                self._coarse.start_window(job.slot, window)
                job.window_ends = job.coarse.window_end(job.coarse.generated)
                if not extends:
                    return [job]
        left = (job.window_ends - job.coarse.generated for job in jobs if job.window_ends)
        k = min([self._coarse_pace.steps, *left])
        began = self._clock()
        made = self._coarse.run(k, [job.slot for job in jobs])
        self._coarse_pace.took(k, self._clock() - began)
        for column, job in enumerate(jobs):
            job.add_coarse(made[:, column])
        return jobs

    def _fine_work(self, jobs: list[Job]) -> list[Job]:
        job = min(jobs, key=lambda job: job.served)
        self._fine.step(job.fine)
        job.after_fine()
        return [job]

    def _codec_work(self, job: Job) -> list[JobEvent]:
        """Decode the next run of frames of one job, and hand them out."""
        told = job.stage is Stage.CODEC
        began = self._clock()
        audio = job.decode()
        now = self._clock()
        job.spent[Stage.CODEC] += now - began
        job.served = now
        events: list[JobEvent] = []
        if told:
            events.append(Progress(job.id, Stage.CODEC, job.fraction(Stage.CODEC)))
        if audio is not None:
            if audio.chunk == 0:
                job.ttfa_s = now - job.began
            events.append(audio)
        if job.stage is None:
            self._jobs[job.slot] = None
            events.append(job.done())
        return events
