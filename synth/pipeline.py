"""text -> semantic -> coarse -> fine -> waveform. START HERE.

A `Pipeline` holds a model and B slots. Jobs are admitted into free slots and move through the
stages; each `step()` does one bounded piece of work, for one job or for all that are at the same
stage, and returns what happened. What a job produces does not depend on the other jobs. Knows
nothing of queues, processes or names of voices.
"""

import logging
import time
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch

from synth.allocator import loading
from synth.coarse import CoarseStage, Ids
from synth.codec_graphs import CodecGraphs
from synth.errors import InvalidRequest, JobTimeout
from synth.fine import FineStage
from synth.job import Job
from synth.model import Model
from synth.prefill_graphs import WARM_UP_S
from synth.protocol import (
    Audio,
    Done,
    Failed,
    HistoryPrompt,
    JobEvent,
    Progress,
    Reason,
    Sampling,
    Stage,
    Streaming,
    Submit,
)
from synth.quantum import Quantum, most_steps
from synth.semantic import SemanticStage
from synth.turns import Turns

logger = logging.getLogger(__name__)

_STAGES = (Stage.CODEC, Stage.FINE, Stage.COARSE, Stage.SEMANTIC)


class Pipeline:
    """Jobs in slots over one model. Not thread-safe: one thread owns it."""

    def __init__(
        self,
        model: Model,
        *,
        slots: int = 1,
        graphs: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Allocates the caches of `slots` slots. graphs: on CUDA, replay what each stage
        repeats as graphs.
        """
        if slots < 1:
            raise InvalidRequest(f"There must be at least 1 slot, not {slots}.")
        self.model = model
        self.slots = slots
        self._clock = clock
        with torch.inference_mode(), loading():
            model.bring(Stage.SEMANTIC)
            self._semantic = SemanticStage(model.semantic, model.config, slots=slots)
            model.bring(Stage.COARSE)
            self._coarse = CoarseStage(model.coarse, model.config, slots=slots)
            model.bring(Stage.FINE)
            self._fine = FineStage(model.fine, model.config)
        self._records = graphs and model.device.type == "cuda"
        self._runs: CodecGraphs | None = None
        if self._records:
            model.bring(Stage.SEMANTIC)
            self._semantic.record_steps()
            model.bring(Stage.COARSE)
            self._coarse.record_steps()
            self._fine.record_passes()
            self._runs = CodecGraphs(model.codec) if model.codec.causal else None
        self._jobs: list[Job | None] = [None] * slots
        self._stage_turn = 0
        self._turns = {stage: Turns() for stage in Stage}
        self._buffered_s: Mapping[str, float] = {}
        most, books = most_steps(model.device), model.config.coarse.codebooks
        self._quanta = {Stage.SEMANTIC: Quantum(1, most), Stage.COARSE: Quantum(books, most)}

    def warm_up(self) -> None:
        """Make a clip, each stage once at its full shapes: what is loaded, compiled or recorded
        when it is first needed has been, before anybody waits. That is of clips sampled as Bark
        samples by itself; filters, and a temperature of 0, are recorded when they are asked for.
        """
        if self._records:
            with torch.inference_mode():
                self.model.bring(Stage.SEMANTIC)
                self._semantic.warm_up()
                self.model.bring(Stage.COARSE)
                self._coarse.warm_up()
        # A few tokens are padded to a whole fine window.
        seconds = WARM_UP_S if self._records else 0.2
        sampling = Sampling(max_seconds=seconds, early_stop=False)
        # Windows and runs of low latency have other lengths.
        for streaming in Streaming if self._records else (Streaming.EXACT,):
            submit = Submit(job_id="warm-up", text="Hello", sampling=sampling, streaming=streaming)
            self.run(submit, None)

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
        self._jobs[slot] = Job(submit, history, self.model, slot, self._clock(), runs=self._runs)

    def cancel(self, job_id: str) -> bool:
        """Drop a job and free its slot at once. False when there is no such job."""
        for slot, job in enumerate(self._jobs):
            if job is not None and job.id == job_id:
                self._jobs[slot] = None
                return True
        return False

    def step(self, buffered_s: Mapping[str, float] | None = None) -> list[JobEvent]:
        """Do one bounded piece of work: one prefill, a few decode steps of all jobs at a stage,
        one forward pass of the fine stage, or a run of frames decoded. The stages take turns, and
        at a stage prefills and decode steps do. Where one job is worked on, `Turns` says which.

        buffered_s: job id -> seconds of audio that its listener has in hand; 0 if not told.

        A job past its `deadline_s` ends here, between two pieces of work, and the others go on;
        whoever watches this process need only see to a piece that never ends.

        Returns what happened, [] when there is no job.
        """
        if late := self._expire():
            return late
        self._buffered_s = buffered_s or {}
        for stage in self._order():
            jobs = [job for job in self._jobs if job is not None and job.can_run(stage)]
            if jobs:
                self._stage_turn = _STAGES.index(stage) + 1
                self.model.bring(stage)
                return self._work(stage, jobs)
        return []

    def _order(self) -> list[Stage]:
        """The stages, the one whose turn it is first."""
        turn = self._stage_turn % len(_STAGES)
        order = [*_STAGES[turn:], *_STAGES[:turn]]
        if away := self.model.offload:  # to change what is on the device takes long
            order.sort(key=lambda stage: stage.value != away.present)
        return order

    def run(
        self,
        submit: Submit,
        history: HistoryPrompt | None,
        on_event: Callable[[JobEvent], None] | None = None,
    ) -> tuple[npt.NDArray[np.float32], Done]:
        """One job from its admission to its end: (N,) float32 samples, none of a draft, and the
        Done event.

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
                        return np.concatenate([np.zeros(0, np.float32), *pieces]), event
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
            return self._codec_work(self._next(stage, jobs))
        now = self._clock()
        events: list[JobEvent] = []
        for job in worked:
            job.spent[stage] += (now - began) / len(worked)
            if job.is_astray:
                logger.info("job %s: no end came, begun anew", job.id)
                job = self._jobs[job.slot] = job.anew()
            if job.id in told:
                events.append(Progress(job.id, stage, job.fraction(stage)))
            if job.is_drafted:
                self._jobs[job.slot] = None
                events.append(job.done())
            if job.stage is None:
                detail = "The model ended the clip before it began; try another seed or wording."
                events.append(self._fail(job, Reason.INVALID, detail))
        return events

    def _in_hand(self, job: Job) -> float:
        return self._buffered_s.get(job.id, 0.0)

    def _next(self, stage: Stage, jobs: list[Job]) -> Job:
        return self._turns[stage].pick(jobs, self._buffered_s)

    def _next_prefill(self, stage: Stage, jobs: list[Job], ready: bool) -> Job | None:
        """Which of `jobs` is prefilled now; None when it is the decode steps' turn.

        ready: whether there is one to decode.
        """
        if not jobs or (ready and self._quanta[stage].is_due):
            return None
        return self._next(stage, jobs)

    def _semantic_work(self, jobs: list[Job]) -> list[Job]:
        ready = [job for job in jobs if job.semantic_started]
        new = [job for job in jobs if not job.semantic_started]
        quantum, began = self._quanta[Stage.SEMANTIC], self._clock()
        if job := self._next_prefill(Stage.SEMANTIC, new, bool(ready)):
            self._semantic.start(
                job.slot,
                job.text_tokens,
                job.history,
                job.sampling,
                job.utterance,
                scored=job.is_draft,
            )
            job.semantic_started = True
            quantum.prefilled(self._clock() - began)
            return [job]
        left = (job.semantic_limit - len(job.semantic) for job in ready)
        k = min([quantum.steps, *left])
        made = self._semantic.run(k, [job.slot for job in ready])
        quantum.took(k, self._clock() - began)
        for column, job in enumerate(ready):
            scores = made.log_probs if job.is_draft else None
            job.add_semantic(
                made.tokens[:, column],
                made.ended[:, column],
                None if scores is None else scores[:, column],
            )
        return ready

    def _coarse_work(self, jobs: list[Job]) -> list[Job]:
        due: list[Job] = []
        for job in jobs:
            if not job.coarse_started:
                self._coarse.open(job.slot, job.sampling, job.utterance)
                job.coarse_started = True
            if job.window_ends is None and not self._extends_window(job):
                due.append(job)
        ready = [job for job in jobs if job.window_ends is not None]
        quantum, began = self._quanta[Stage.COARSE], self._clock()
        if job := self._next_prefill(Stage.COARSE, due, bool(ready)):
            self._start_window(job, job.coarse.window())
            quantum.prefilled(self._clock() - began)
            return [job]
        left = (job.window_ends - job.coarse.generated for job in ready if job.window_ends)
        k = min([quantum.steps, *left])
        made = self._coarse.run(k, [job.slot for job in ready])
        quantum.took(k, self._clock() - began)
        for column, job in enumerate(ready):
            job.add_coarse(made[:, column])
        return ready

    def _extends_window(self, job: Job) -> bool:
        """Begin a job's next window if the cache holds all of it. Each is looked at once: while
        many wait for their turn, to look at all of theirs again would take longer than their steps.
        """
        generated = job.coarse.generated
        if job.window_seen == generated:
            return False
        job.window_seen = generated
        window = job.coarse.window()
        if not self._coarse.is_prefilled(job.slot, window):
            return False
        self._start_window(job, window)
        return True

    def _start_window(self, job: Job, window: Ids) -> None:
        self._coarse.start_window(job.slot, window)
        job.window_ends = job.coarse.window_end(job.coarse.generated)

    def _fine_work(self, jobs: list[Job]) -> list[Job]:
        # A window is of use when it is whole: taking turns within windows makes all equally late.
        least = min(map(self._in_hand, jobs))
        begun = [job for job in jobs if job.fine.underway and self._in_hand(job) <= least]
        job = begun[0] if begun else self._next(Stage.FINE, jobs)
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
