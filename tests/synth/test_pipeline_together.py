"""Jobs in slots: what a job makes is its own affair, whoever is beside it and whenever it came."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from synth.coarse import CoarseStage, Ids
from synth.errors import InvalidRequest
from synth.fine import FineJob
from synth.model import build_model
from synth.pipeline import Pipeline
from synth.protocol import (
    Done,
    Failed,
    Reason,
    Sampling,
    Stage,
    Streaming,
    Submit,
)
from synth.quantum import Quantum
from synth.step_graphs import CudaRecorder
from synth.stepper import Chunk
from tests.synth.jobs import Heard, assert_same, finish, submit
from tests.synth.tiny import NARROW, ODD, RANDOM, history, letters, tiny_checkpoint, tiny_model

JOBS = [
    (submit("plain", "Hello", seed=1), None),
    (submit("voiced", "Hello", seed=1), 58),
    (
        submit(
            "greedy", letters(30), text_temperature=0, waveform_temperature=0, fine_temperature=0
        ),
        31,
    ),
    (submit("filtered", letters(9), seed=2, top_k=20, top_p=0.9), None),
    (submit("capped", letters(5), seed=2, max_seconds=0.7, early_stop=False), 192),
    (submit("second", "Hello", seed=1, utterance=4), None),
]


def test_a_job_alone_equals_the_same_job_among_others() -> None:
    """Single precision, fixed seeds; slots are taken again as they fall free."""
    model = tiny_model(ODD)
    voices = {n: history(ODD, n) for n in (31, 58, 192)}
    alone = {job.job_id: Pipeline(model).run(job, voices[n] if n else None) for job, n in JOBS}
    pipeline = Pipeline(model, slots=3)
    waiting = list(JOBS)
    made: dict[str, tuple[npt.NDArray[np.float32], Done]] = {}
    heard: Heard = {}
    while len(made) < len(JOBS):
        while waiting and pipeline.free:
            job, n = waiting.pop(0)
            pipeline.admit(job, voices[n] if n else None)
        made |= finish(pipeline, 1, heard)
    for job_id, (samples, done) in alone.items():
        assert_same(done, made[job_id][1])
        assert np.abs(samples - made[job_id][0]).max() < 1e-6
    assert pipeline.free == 3


def test_no_job_waits_while_others_go_on() -> None:
    """Short jobs that keep coming do not hold up a long one, though its listener needs nothing and
    theirs have nothing.
    """
    pipeline = Pipeline(tiny_model(), slots=8)
    pipeline.admit(submit("long", early_stop=False, max_seconds=0.5), None)
    short = 0
    for _ in range(1500):
        while pipeline.free:
            some = submit(f"short{short}", max_seconds=0.1 + short % 5 * 0.2, early_stop=False)
            pipeline.admit(some, None)
            short += 1
        events = pipeline.step({"long": 100.0})
        if any(isinstance(e, Done) and e.job_id == "long" for e in events):
            break
    else:
        pytest.fail("the long job never ended")
    assert short > 8


@pytest.mark.parametrize("stage", ["semantic", "coarse"])
def test_prefills_take_turns_with_decode_steps(monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """All windows that began together used to be prefilled while no job went on. Apart, the jobs
    are still decoded together.
    """
    pipeline = Pipeline(tiny_model(), slots=4, clock=lambda: 0.0)
    done: list[int] = []  # rows of each quantum of steps, 0 for a prefill
    stepper = getattr(pipeline, f"_{stage}")._stepper
    prefill, run = stepper.prefill, stepper.run

    def noted_prefill(slot: int, x: Any, pending: int, *, start: int = 0) -> None:
        if len(x):
            done.append(0)
        prefill(slot, x, pending, start=start)

    def noted_run(k: int, slots: Sequence[int]) -> Any:
        done.append(len(slots))
        return run(k, slots)

    monkeypatch.setattr(stepper, "prefill", noted_prefill)
    monkeypatch.setattr(stepper, "run", noted_run)
    for number in range(4):
        pipeline.admit(submit(f"j{number}", seed=number, early_stop=False, max_seconds=4.0), None)
    finish(pipeline, 4)
    assert (0, 0) not in set(pairwise(done)) and done.count(0) >= 4
    rows = [count for count in done if count]
    assert sum(rows) > 0.9 * 4 * len(rows)


def test_short_prefills_do_not_leave_most_slots_idle() -> None:
    """One by one between two quanta, each as long as a step or two of a GPU, they let the sixteen
    clips of a full machine decode seven at a time.
    """
    now = 0.0
    pipeline = Pipeline(tiny_model(NARROW), slots=16, clock=lambda: now)
    pipeline._quanta[Stage.COARSE] = Quantum(2, 16)
    stepper = pipeline._coarse._stepper
    steps: list[int] = []

    def prefill(slot: int, x: Any, pending: int, *, start: int = 0) -> None:
        nonlocal now
        now += 0.002 if len(x) else 0.0
        stepper.token[slot] = pending

    def run(k: int, slots: Sequence[int]) -> Chunk:
        nonlocal now
        now += 0.001 * k
        steps.append(k)
        nothing = np.zeros((k, len(slots)), dtype=np.int64)
        stepper.token[list(slots)] = stepper._offsets[-1]
        return Chunk(nothing, nothing.astype(bool))

    stepper.prefill, stepper.run = prefill, run
    for number in range(16):
        how = replace(submit(f"j{number}"), semantic_tokens=tuple(range(300)))
        pipeline.admit(how, history(NARROW, 256))
    jobs = [job for job in pipeline._jobs if job is not None]
    while any(job.coarse.generated < job.coarse.total for job in jobs):
        pipeline.step()
    assert sum(steps) < 1.1 * jobs[0].coarse.total


def test_fine_windows_are_made_one_after_the_other() -> None:
    """Codebook by codebook, all clips that began together were done at the end of the last one's
    work. A listener who runs dry does not wait for a whole window.
    """
    passes: list[int] = []

    def run(buffered_s: dict[str, float]) -> None:
        pipeline = Pipeline(tiny_model(ODD), slots=2)
        for job_id in ("a", "b"):
            how = submit(job_id, early_stop=False, max_seconds=0.5)
            pipeline.admit(replace(how, user=job_id), None)
        step = pipeline._fine.step
        jobs = {id(job.fine): job.slot for job in pipeline._jobs if job is not None}

        def noted(job: FineJob) -> None:
            passes.append(jobs[id(job)])
            if len(passes) > 1:
                buffered_s.pop("b", None)
            step(job)

        pipeline._fine.step = noted
        done = 0
        while done < 2:
            done += sum(isinstance(e, Done) for e in pipeline.step(buffered_s))

    run({})
    assert passes in ([0] * 3 + [1] * 3, [1] * 3 + [0] * 3)
    passes.clear()
    run({"a": 0.5, "b": 1.0})
    assert passes == [0] * 2 + [1] * 3 + [0]


def test_the_emptiest_listener_is_served_first() -> None:
    pipeline = Pipeline(tiny_model(), slots=3)
    for job_id in ("full", "empty", "some"):
        pipeline.admit(submit(job_id, early_stop=False, max_seconds=0.5), None)
    buffered_s = {"full": 9.0, "some": 1.0}
    order: list[str] = []
    while len(order) < 3:
        order += [e.job_id for e in pipeline.step(buffered_s) if isinstance(e, Done)]
    assert order == ["empty", "some", "full"]


@pytest.mark.parametrize(
    ("step_s", "semantic", "coarse"),
    [(0.001, 4, 4), (0.02, 2, 2), (0.06, 1, 2), (9.0, 1, 2)],
)
def test_a_quantum_is_50_ms_of_decode_steps_or_the_fewest_there_can_be(
    monkeypatch: pytest.MonkeyPatch, step_s: float, semantic: int, coarse: int
) -> None:
    """A cancel waits for the quantum in work. What is made does not depend on its size."""
    now = 0.0
    pipeline = Pipeline(tiny_model(), slots=2, clock=lambda: now)
    sizes: dict[str, list[int]] = {}
    for name in ("semantic", "coarse"):
        stage = getattr(pipeline, f"_{name}")

        def timed(k: int, slots: Sequence[int], run: Any = stage.run, name: str = name) -> Any:
            nonlocal now
            now += k * step_s
            sizes.setdefault(name, []).append(k)
            return run(k, slots)

        monkeypatch.setattr(stage, "run", timed)
    _, done = pipeline.run(submit(seed=4, max_seconds=1.0), None)
    assert sizes["semantic"][0] == 1 and sizes["coarse"][0] == 2  # nothing is known yet
    assert max(sizes["semantic"]) == semantic and max(sizes["coarse"]) == coarse
    assert_same(done, Pipeline(tiny_model()).run(submit(seed=4, max_seconds=1.0), None)[1])


@pytest.mark.parametrize("streaming", Streaming)
def test_a_job_past_its_deadline_ends_and_the_others_go_on(streaming: Streaming) -> None:
    """It used to go on until the whole process was killed for it, and its neighbours with it."""
    now = 0.0
    pipeline = Pipeline(tiny_model(), slots=2, clock=lambda: now)
    how = Sampling(seed=2, max_seconds=0.5)
    late = Submit(job_id="late", text="Hello", deadline_s=10.0, streaming=streaming)
    pipeline.admit(late, None)
    pipeline.admit(Submit(job_id="other", text="Hello", sampling=how), None)
    now = 9.99
    for _ in range(3):
        assert not [e for e in pipeline.step() if isinstance(e, Failed)] and pipeline.free == 0
    now = 10.0
    (failed,) = pipeline.step()
    assert isinstance(failed, Failed)
    assert (failed.job_id, failed.reason) == ("late", Reason.TIMEOUT)
    assert "took too long" in failed.detail and pipeline.free == 1
    _, done = finish(pipeline, 1)["other"]
    _, alone = Pipeline(tiny_model()).run(submit("b", "Hello", seed=2, max_seconds=0.5), None)
    assert_same(done, alone)


def test_what_the_cache_holds_of_a_window_is_looked_for_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While eight waited for a prefill, the windows of all were put together again for each."""
    looked: list[int] = []
    is_prefilled = CoarseStage.is_prefilled

    def counted(self: CoarseStage, slot: int, window: Ids) -> bool:
        looked.append(slot)
        return is_prefilled(self, slot, window)

    monkeypatch.setattr(CoarseStage, "is_prefilled", counted)
    pipeline = Pipeline(tiny_model(), slots=8)
    for n in range(8):
        pipeline.admit(submit(f"j{n}", seed=n, max_seconds=2.0, early_stop=False), None)
    made = finish(pipeline, 8)
    window = RANDOM.coarse.window // RANDOM.coarse.codebooks
    frames = [done.history.coarse_codes.shape[1] for _, done in made.values()]
    assert len(looked) == sum(-(-count // window) for count in frames)


def test_a_full_pipeline_says_so() -> None:
    pipeline = Pipeline(tiny_model(), slots=2)
    pipeline.admit(submit("a"), None)
    with pytest.raises(RuntimeError, match="already"):
        pipeline.admit(submit("a"), None)
    pipeline.admit(submit("b"), None)
    with pytest.raises(RuntimeError, match="no slot"):
        pipeline.admit(submit("c"), None)
    with pytest.raises(InvalidRequest, match="at least 1 slot"):
        Pipeline(tiny_model(), slots=0)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["auto", "fp32", "fp64"])
def test_the_gpu_runs_jobs_together(precision: str) -> None:
    """In double precision the tokens are the CPU's."""
    model = build_model(tiny_checkpoint(ODD), device="cuda", precision=precision)
    pipeline = Pipeline(model, slots=3)
    voices = {n: history(ODD, n) for n in (31, 58, 192)}
    for job, n in JOBS[:3]:
        pipeline.admit(job, voices[n] if n else None)
    made = finish(pipeline, 3)
    if precision == "fp64":
        for job, n in JOBS[:3]:
            voice = voices[n] if n else None
            _, done = Pipeline(tiny_model(ODD, "fp64")).run(job, voice)
            assert_same(done, made[job.job_id][1])


@pytest.mark.gpu
def test_after_a_warm_up_nothing_more_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """For clips as most are, of any number of slots."""
    recorded = 0
    record = CudaRecorder.__call__

    def counted(self: CudaRecorder, *args: Any) -> Any:
        nonlocal recorded
        recorded += 1
        return record(self, *args)

    monkeypatch.setattr(CudaRecorder, "__call__", counted)
    pipeline = Pipeline(build_model(tiny_checkpoint(), device="cuda", precision="bf16"), slots=3)
    pipeline.warm_up()
    warm = recorded
    for slots in (1, 3):
        for streaming in Streaming:
            for n in range(slots):
                how = Sampling(seed=n, max_seconds=2.0, early_stop=False)
                job = Submit(job_id=str(n), text="Hello", sampling=how, streaming=streaming)
                pipeline.admit(job, None)
            finish(pipeline, slots)
    assert recorded == warm > 0
