"""Utterances whose end does not come: begun anew with another seed, so often and no more."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from synth.pipeline import Pipeline
from synth.protocol import Audio, Done, HistoryPrompt, JobEvent, Sampling, Streaming, Submit
from synth.seeds import derived_seed
from synth.stepper import Chunk
from tests.synth.tiny import RANDOM, tiny_model

SEED = 5
FIRST, SECOND, THIRD = (derived_seed(SEED, n) for n in range(3))
LONGEST = 162  # semantic tokens that "Hi" can take: 3.2 s


class ScriptedSemantic:
    """A semantic stage whose clips end after as many tokens as their seed says, or never."""

    def __init__(self, ends: Mapping[int, int]) -> None:
        self._ends = ends
        self._made: dict[int, int] = {}
        self._seeds: dict[int, int] = {}
        self.begun: list[int] = []

    def start(
        self,
        slot: int,
        text_tokens: npt.NDArray[np.int64],
        history: HistoryPrompt | None,
        sampling: Sampling,
        utterance: int,
        *,
        scored: bool = False,
    ) -> None:
        self._made[slot], self._seeds[slot] = 0, sampling.seed
        self.begun.append(sampling.seed)

    def run(self, k: int, slots: Sequence[int]) -> Chunk:
        tokens, ended = np.zeros((k, len(slots)), np.int64), np.zeros((k, len(slots)), bool)
        for column, slot in enumerate(slots):
            end = self._ends.get(self._seeds[slot], 10**6)
            places = self._made[slot] + np.arange(k)
            tokens[:, column] = (places * 7 + self._seeds[slot]) % RANDOM.semantic.vocab
            ended[:, column] = places >= end
            self._made[slot] += k
        return Chunk(tokens, ended)


def pipeline_of(ends: Mapping[int, int], slots: int = 1) -> tuple[Pipeline, ScriptedSemantic]:
    pipeline, script = Pipeline(tiny_model(), slots=slots), ScriptedSemantic(ends)
    pipeline._semantic = script  # pyright: ignore[reportAttributeAccessIssue]
    return pipeline, script


def submit(text: str = "Hi", rerolls: int = 2, job_id: str = "job", **how: object) -> Submit:
    sampling = Sampling(**{"seed": SEED, **how})  # pyright: ignore[reportArgumentType]
    return Submit(job_id=job_id, text=text, sampling=sampling, rerolls=rerolls)


def hurried(request: Submit) -> Submit:
    return replace(request, streaming=Streaming.LOW_LATENCY)


def test_a_runaway_is_begun_anew_and_the_seed_it_ended_with_is_told() -> None:
    pipeline, script = pipeline_of({SECOND: 40})
    heard: list[JobEvent] = []
    samples, done = pipeline.run(submit(), None, heard.append)
    assert script.begun == [FIRST, SECOND]
    (rendition,) = done.renditions
    assert (done.seed, rendition.seed, rendition.rerolls) == (SECOND, SECOND, 1)
    assert rendition.ended and rendition.text == "Hi" and done.notes == ()
    assert len(done.history.semantic) == 40
    assert rendition.audio_s == done.audio_s == len(samples) / RANDOM.codec.sample_rate
    assert [event.chunk for event in heard if isinstance(event, Audio)][0] == 0
    # The seed that is told makes the same clip at once.
    again, _ = pipeline.run(submit(seed=SECOND), None)
    np.testing.assert_array_equal(samples, again)
    assert script.begun == [FIRST, SECOND, SECOND]


def test_the_tries_are_bounded_and_the_last_is_cut_where_the_text_must_be_over() -> None:
    pipeline, script = pipeline_of({})
    _, done = pipeline.run(submit(), None)
    assert script.begun == [FIRST, SECOND, THIRD]
    assert len(done.history.semantic) == LONGEST
    (rendition,) = done.renditions
    assert not rendition.ended and rendition.rerolls == 2
    assert done.notes == (
        f"The model did not find the end of the text: the clip was cut after {done.audio_s:.1f} s.",
    )


def test_with_low_latency_what_was_heard_is_cut_and_not_begun_anew() -> None:
    pipeline, script = pipeline_of({})
    heard: list[JobEvent] = []
    samples, done = pipeline.run(hurried(submit()), None, heard.append)
    sound = [event.samples for event in heard if isinstance(event, Audio)]
    assert len(sound) > 1 and sum(map(len, sound)) == len(samples)
    assert script.begun == [FIRST] and len(done.history.semantic) == LONGEST
    (rendition,) = done.renditions
    assert not rendition.ended and rendition.rerolls == 0
    assert "did not find the end of the text" in done.notes[0]


@pytest.mark.parametrize("hurry", [False, True])
def test_an_end_at_once_is_begun_anew_too(hurry: bool) -> None:
    pipeline, script = pipeline_of({FIRST: 0, SECOND: 0, THIRD: 20})
    _, done = pipeline.run(hurried(submit()) if hurry else submit(), None)
    assert script.begun == [FIRST, SECOND, THIRD] and done.seed == THIRD


@pytest.mark.parametrize(
    ("request_", "tokens"),
    [
        (submit(rerolls=0), 300),  # Bark's own computation: to the end of the window
        (submit("♪ la la ♪"), 300),  # music lasts as long as it likes
        (submit("word " * 15), 300),  # may just be said slowly
        (submit(max_seconds=1.0), 50),  # the limit is the caller's
        (submit(early_stop=False), 300),
    ],
    ids=["off", "music", "full", "capped", "no-end-wanted"],
)
def test_what_may_go_on_is_left_alone(request_: Submit, tokens: int) -> None:
    pipeline, script = pipeline_of({})
    _, done = pipeline.run(request_, None)
    assert script.begun == [SEED] and done.notes == () and done.renditions[0].ended
    assert len(done.history.semantic) == tokens


def test_a_text_with_room_to_spare_that_fills_the_window_is_begun_anew() -> None:
    pipeline, script = pipeline_of({SECOND: 200})
    pipeline.run(submit("a " * 30), None)
    assert script.begun == [FIRST, SECOND]


def test_the_job_beside_it_does_not_notice() -> None:
    alone, _ = pipeline_of({7: 60})
    wanted, _ = alone.run(submit(job_id="other", seed=7), None)
    pipeline, script = pipeline_of({SECOND: 40, 7: 60}, slots=2)
    for request in (submit(), submit(job_id="other", seed=7)):
        pipeline.admit(request, None)
    samples: dict[str, list[npt.NDArray[np.float32]]] = {"job": [], "other": []}
    done: set[str] = set()
    while len(done) < 2:
        for event in pipeline.step():
            if isinstance(event, Audio):
                samples[event.job_id].append(event.samples)
            elif isinstance(event, Done):
                done.add(event.job_id)
    assert sorted(script.begun) == sorted([FIRST, 7, SECOND])
    np.testing.assert_array_equal(np.concatenate(samples["other"]), wanted)


def test_derived_seeds_are_fixed_and_fit_wherever_a_seed_does() -> None:
    assert derived_seed(9) == derived_seed(9, 0) == derived_seed(9, 0, 0) == 9
    assert derived_seed(9, 0, 1) == derived_seed(9, 0, 1, 0) != derived_seed(9, 1)
    assert derived_seed(9, 1) == 389484131
    seeds = {derived_seed(seed, n) for seed in (-1, 0, 9, 2**40) for n in range(1, 50)}
    assert len(seeds) == 4 * 49 and all(0 <= seed < 2**31 for seed in seeds)
