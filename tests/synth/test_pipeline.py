"""One job from its text to its sound: what happens, in which order, and what is refused."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from synth.errors import InvalidRequest
from synth.pipeline import Pipeline
from synth.protocol import (
    Audio,
    Done,
    Failed,
    JobEvent,
    Progress,
    Reason,
    Stage,
    Streaming,
)
from tests.synth.jobs import assert_same, model_that_ends_at_once, submit
from tests.synth.tiny import RANDOM, history, letters, tiny_model


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


def test_half_precision_runs_on_a_cpu() -> None:
    samples, done = Pipeline(tiny_model(RANDOM, "bf16")).run(submit(max_seconds=0.5), None)
    assert np.isfinite(samples).all() and done.audio_s > 0.1
