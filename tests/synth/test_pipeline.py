"""Jobs in slots: what a job makes is its own affair, whoever is beside it and whenever it came."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from synth.errors import InvalidRequest
from synth.fine import FineJob
from synth.model import Model, build_model
from synth.pipeline import Pipeline
from synth.protocol import (
    Audio,
    Done,
    Failed,
    JobEvent,
    Progress,
    Reason,
    Sampling,
    Stage,
    Streaming,
    Submit,
)
from synth.quantum import Quantum
from synth.random_model import RandomCheckpoint
from synth.stepper import Chunk
from tests.synth.tiny import NARROW, ODD, RANDOM, history, letters, tiny_checkpoint, tiny_model


def submit(
    job_id: str = "job", text: str = "Hello there", utterance: int = 0, **how: object
) -> Submit:
    return Submit(job_id=job_id, text=text, sampling=Sampling(**how), utterance=utterance)  # pyright: ignore[reportArgumentType]


Heard = dict[str, npt.NDArray[np.float32]]


def finish(
    pipeline: Pipeline, count: int, heard: Heard | None = None
) -> dict[str, tuple[npt.NDArray[np.float32], Done]]:
    """Step until `count` jobs are done; `heard` keeps what jobs that are not said so far."""
    samples: Heard = {} if heard is None else heard
    done: dict[str, Done] = {}
    while len(done) < count:
        for event in pipeline.step():
            assert not isinstance(event, Failed), event
            if isinstance(event, Audio):
                before = samples.get(event.job_id, np.zeros(0, np.float32))
                samples[event.job_id] = np.concatenate([before, event.samples])
            elif isinstance(event, Done):
                done[event.job_id] = event
    return {job_id: (samples[job_id], done[job_id]) for job_id in done}


def assert_same(one: Done, other: Done) -> None:
    np.testing.assert_array_equal(one.history.semantic, other.history.semantic)
    np.testing.assert_array_equal(one.history.coarse_codes, other.history.coarse_codes)
    np.testing.assert_array_equal(one.history.fine_codes, other.history.fine_codes)


def model_that_ends_at_once() -> Model:
    """RANDOM with an end that is certain from the first position on."""
    checkpoint = tiny_checkpoint(RANDOM)
    semantic = {n: t.clone() for n, t in checkpoint.tensors("semantic").items()}
    head = semantic["lm_head.weight"]
    semantic["transformer.wpe.weight"] += (
        500 * head[RANDOM.semantic.pad] / head[RANDOM.semantic.pad].norm()
    )
    ending = RandomCheckpoint(
        RANDOM, checkpoint.tokenizer_file, {**checkpoint.stages, "semantic": semantic}
    )
    return build_model(ending, device="cpu", precision="fp32")


def test_events_of_one_job_in_their_order() -> None:
    events: list[JobEvent] = []
    samples, done = Pipeline(tiny_model()).run(submit(seed=3, max_seconds=1.0), None, events.append)
    progress = [event for event in events if isinstance(event, Progress)]
    stages = [event.stage for event in progress]
    assert sorted(stages, key=list(Stage).index) == stages and set(stages) == set(Stage)
    for stage in Stage:
        fractions = [event.fraction for event in progress if event.stage is stage]
        assert fractions == sorted(fractions) and 0 <= fractions[0] and fractions[-1] == 1
    assert [type(event) for event in events[-2:]] == [Audio, Done]
    assert done.seed == 3 and done.notes == ()
    assert len(samples) == done.history.fine_codes.shape[1] * RANDOM.codec.hop
    assert done.audio_s == len(samples) / RANDOM.codec.sample_rate
    assert done.timings.semantic_s > 0 and done.timings.coarse_s > 0
    assert done.timings.fine_s > 0 and done.timings.codec_s > 0
    before = done.timings.semantic_s + done.timings.coarse_s + done.timings.fine_s
    assert before < done.timings.ttfa_s
    assert done.history.family == RANDOM.family


def test_sound_comes_in_chunks_of_which_the_first_is_short() -> None:
    """Together they are the whole decode of the clip's codes."""
    pipeline = Pipeline(tiny_model())
    chunks: list[Audio] = []

    def keep(event: JobEvent) -> None:
        if isinstance(event, Audio):
            chunks.append(event)

    how = submit(utterance=3, seed=3, early_stop=False, max_seconds=2.0)
    samples, done = pipeline.run(how, None, keep)
    assert [chunk.chunk for chunk in chunks] == list(range(len(chunks)))
    assert {chunk.utterance for chunk in chunks} == {3}
    hop = RANDOM.codec.hop
    assert [len(chunk.samples) // hop for chunk in chunks] == [15, 120, 15]
    whole = pipeline.model.codec.decode(done.history.fine_codes)
    assert np.abs(samples - whole).max() < 1e-5


def sound_before_the_end_of(stage: Stage, streaming: Streaming, voice: int | None) -> int:
    """Frames of a 4.5 s clip handed out before `stage` had ended; what came is checked."""
    pipeline = Pipeline(tiny_model())
    events: list[JobEvent] = []
    how = replace(submit(seed=3, early_stop=False, max_seconds=4.5), streaming=streaming)
    past = history(RANDOM, voice) if voice else None
    samples, done = pipeline.run(how, past, events.append)
    whole = pipeline.model.codec.decode(done.history.fine_codes)
    assert np.abs(samples - whole).max() < 1e-5
    if streaming is not Streaming.EXACT:
        exact = Pipeline(tiny_model()).run(replace(how, streaming=Streaming.EXACT), past)[1]
        np.testing.assert_array_equal(done.history.coarse_codes, exact.history.coarse_codes)
        assert not np.array_equal(done.history.fine_codes, exact.history.fine_codes)
    told = [e.stage for e in events if isinstance(e, Progress)]
    assert sorted(told, key=list(Stage).index) == told and set(told) == set(Stage)
    ended = max(n for n, e in enumerate(events) if isinstance(e, Progress) and e.stage is stage)
    early = [e.samples for e in events[:ended] if isinstance(e, Audio)]
    return sum(len(chunk) for chunk in early) // RANDOM.codec.hop


def test_sound_comes_as_soon_as_it_is_final() -> None:
    """Windows of 256 frames with a voice's last 128: 338 - 128 frames are final when all but a
    piece of the clip exists, and nothing without a voice before it has 256.
    """
    assert 128 < sound_before_the_end_of(Stage.COARSE, Streaming.EXACT, 120) <= 338 - 128
    assert 60 < sound_before_the_end_of(Stage.COARSE, Streaming.EXACT, None) <= 128
    for voice in (120, None):
        assert sound_before_the_end_of(Stage.COARSE, Streaming.LOW_LATENCY, voice) > 250
        assert sound_before_the_end_of(Stage.SEMANTIC, Streaming.LOW_LATENCY, voice) > 30


@pytest.mark.parametrize(
    ("rerolls", "streaming", "overlap"),
    [(0, Streaming.EXACT, True), (1, Streaming.EXACT, False), (1, Streaming.LOW_LATENCY, True)],
)
def test_coarse_starts_early_unless_that_may_be_in_vain(
    monkeypatch: pytest.MonkeyPatch, rerolls: int, streaming: Streaming, overlap: bool
) -> None:
    pipeline = Pipeline(tiny_model())
    order: list[str] = []
    for name in ("semantic", "coarse"):
        stage = getattr(pipeline, f"_{name}")

        def noted(k: int, slots: Sequence[int], run: Any = stage.run, name: str = name) -> Any:
            order.append(name)
            return run(k, slots)

        monkeypatch.setattr(stage, "run", noted)
    how = replace(submit(seed=3, max_seconds=4.0), rerolls=rerolls, streaming=streaming)
    pipeline.run(how, history(RANDOM, 120))
    last_semantic = len(order) - 1 - order[::-1].index("semantic")
    assert ("coarse" in order[:last_semantic]) is overlap


def test_a_clip_can_be_its_own_voice() -> None:
    pipeline = Pipeline(tiny_model())
    _, first = pipeline.run(submit(max_seconds=1.0), None)
    _, second = pipeline.run(submit(max_seconds=1.0), first.history)
    assert len(second.history.semantic) and not np.array_equal(
        first.history.semantic, second.history.semantic
    )


def test_seed_and_utterance_decide_and_nothing_else_does() -> None:
    pipeline = Pipeline(tiny_model())
    _, first = pipeline.run(submit("a", seed=5, max_seconds=1.0), None)
    _, again = pipeline.run(submit("b", seed=5, max_seconds=1.0), None)
    assert_same(first, again)
    for other in (submit(seed=6, max_seconds=1.0), submit(seed=5, utterance=1, max_seconds=1.0)):
        _, done = pipeline.run(other, None)
        assert not np.array_equal(done.history.semantic[:50], first.history.semantic[:50])


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


def test_a_cancel_frees_the_slot_at_once_at_every_stage() -> None:
    pipeline = Pipeline(tiny_model())
    how = {"seed": 8, "max_seconds": 1.0}
    _, expected = pipeline.run(submit("b", **how), None)
    for stage in (None, Stage.SEMANTIC, Stage.COARSE, Stage.FINE):
        pipeline.admit(submit("a", seed=7, max_seconds=1.0), None)
        reached = stage is None
        while not reached:
            reached = any(isinstance(e, Progress) and e.stage is stage for e in pipeline.step())
        assert pipeline.cancel("a") and pipeline.free == 1
        assert not pipeline.cancel("a")
        assert pipeline.step() == []
    _, done = pipeline.run(submit("b", **how), None)  # nothing of the cancelled one is left
    assert_same(done, expected)


def test_an_end_at_the_first_step_is_a_plain_failure() -> None:
    """The original crashes on an empty array here; the other jobs go on."""
    pipeline = Pipeline(model_that_ends_at_once(), slots=2)
    pipeline.admit(submit("empty"), None)
    pipeline.admit(submit("full", early_stop=False, max_seconds=0.3), None)
    events = [event for _ in range(60) for event in pipeline.step()]
    failed = [event for event in events if isinstance(event, Failed)]
    assert [(f.job_id, f.reason) for f in failed] == [("empty", Reason.INVALID)]
    assert "ended the clip before it began" in failed[0].detail
    assert [e.job_id for e in events if isinstance(e, Done)] == ["full"]
    assert pipeline.free == 2
    with pytest.raises(InvalidRequest, match="before it began"):
        pipeline.run(submit(text_temperature=0), None)
    assert pipeline.free == 2


def test_min_eos_p_of_0_ends_at_once_and_of_2_leaves_it_to_sampling() -> None:
    pipeline = Pipeline(tiny_model())
    with pytest.raises(InvalidRequest, match="before it began"):
        pipeline.run(submit(min_eos_p=0.0), None)
    lengths = [
        len(pipeline.run(submit(seed=1, min_eos_p=p), None)[1].history.semantic)
        for p in (0.01, 0.2, 2.0)
    ]
    assert lengths == sorted(lengths) and lengths[0] < lengths[2]


@pytest.mark.parametrize(("seconds", "tokens"), [(0.01, 1), (0.99, 50), (None, 300)])
def test_without_an_early_stop_the_length_is_the_cap(seconds: float | None, tokens: int) -> None:
    cap = submit(early_stop=False, max_seconds=seconds)
    _, done = Pipeline(tiny_model()).run(cap, None)
    assert len(done.history.semantic) == tokens


def test_a_long_text_is_cut_with_a_note() -> None:
    _, done = Pipeline(tiny_model()).run(submit(text=letters(192), max_seconds=0.5), None)
    assert len(done.notes) == 1 and "50.0 %" in done.notes[0]
    short = submit(text=" ".join(letters(192).split()[:96]), max_seconds=0.5)
    _, cut = Pipeline(tiny_model()).run(short, None)
    assert_same(done, cut)


@pytest.mark.parametrize("text", ["", " \n", "\u200b", "😀🎉"])
def test_an_empty_text_is_refused_and_takes_no_slot(text: str) -> None:
    pipeline = Pipeline(tiny_model())
    with pytest.raises(InvalidRequest, match="nothing to say"):
        pipeline.admit(submit(text=text), None)
    assert pipeline.free == 1


@pytest.mark.parametrize(
    "text", ["a 😀🎉", "שלום", "<@1> @here", "a\x00b\u202e", "a " + "x" * 10_000]
)
def test_odd_texts_are_spoken(text: str) -> None:
    _, done = Pipeline(tiny_model()).run(submit(text=text, max_seconds=0.2), None)
    assert done.audio_s > 0


def test_what_cannot_work_is_refused_and_takes_no_slot() -> None:
    pipeline = Pipeline(tiny_model())
    voice = history(RANDOM, 60)
    for asked, given, what in (
        (submit(top_k=0), None, "top_k"),
        (submit(), replace(voice, family="0" * 16), "another kind"),
        (replace(submit(), semantic_tokens=(1, 2, 500)), None, "Semantic tokens"),
    ):
        with pytest.raises(InvalidRequest, match=what):
            pipeline.admit(asked, given)
        assert pipeline.free == 1


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


def test_half_precision_runs_on_a_cpu() -> None:
    samples, done = Pipeline(tiny_model(RANDOM, "bf16")).run(submit(max_seconds=0.5), None)
    assert np.isfinite(samples).all() and done.audio_s > 0.1


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
