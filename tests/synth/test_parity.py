"""The engine against the original and against transformers: every code equal, stage by stage.

Greedy on both sides, single precision, on random models sharp enough that equality means something
(each test also asks for diversity). NARROW has all of Bark's numbers but width and depth; ODD
shares as few with it as it can.
"""

import numpy as np
import numpy.typing as npt
import pytest

from synth.coarse import CoarseInput
from synth.pipeline import Pipeline
from synth.protocol import Done, HistoryPrompt, Sampling, Submit
from synth.vocab import ModelConfig
from tests.synth.reference import original, transformers
from tests.synth.stages import fine_codes
from tests.synth.tiny import NARROW, ODD, ODD_64, history, letters, tiny_model

WAVEFORM = 1e-4


def generate(
    config: ModelConfig,
    text: str,
    voice: HistoryPrompt | None,
    *,
    seconds: float | None = None,
    early_stop: bool = True,
) -> tuple[npt.NDArray[np.float32], Done]:
    greedy = Sampling(
        text_temperature=0,
        waveform_temperature=0,
        fine_temperature=0,
        max_seconds=seconds,
        early_stop=early_stop,
    )
    submit = Submit(job_id="parity", text=text, sampling=greedy)
    return Pipeline(tiny_model(config)).run(submit, voice)


def assert_like_the_original(
    config: ModelConfig,
    text: str,
    voice: HistoryPrompt | None,
    *,
    seconds: float | None = None,
    early_stop: bool = True,
) -> HistoryPrompt:
    samples, done = generate(config, text, voice, seconds=seconds, early_stop=early_stop)
    ours, theirs = done.history, original(config)
    semantic = theirs.semantic(text, voice, seconds=seconds, early_stop=early_stop)
    np.testing.assert_array_equal(ours.semantic, semantic)
    coarse_codes = theirs.coarse(semantic, voice)
    np.testing.assert_array_equal(ours.coarse_codes, coarse_codes)
    all_codes = theirs.fine(coarse_codes, voice)
    np.testing.assert_array_equal(ours.fine_codes, all_codes)
    waveform = theirs.waveform(all_codes)
    assert samples.shape == waveform.shape
    assert np.abs(samples - waveform).max() <= WAVEFORM
    # Sharp and diverse: neither a constant nor a short loop, and a sound of some strength.
    assert len(set(semantic.tolist())) > len(semantic) / 15
    assert len(set(coarse_codes.ravel().tolist())) > 40
    assert len(set(all_codes[config.coarse.codebooks :].ravel().tolist())) > 50
    assert np.abs(waveform).max() > 0.05
    return ours


@pytest.mark.parametrize("pieces", [1, 40, 400])
@pytest.mark.parametrize("voice", [None, 158, 192, 256, 700])
def test_narrow_bark_equals_the_original(voice: int | None, pieces: int) -> None:
    given = None if voice is None else history(NARROW, voice)
    assert_like_the_original(NARROW, letters(pieces), given, seconds=2.0, early_stop=False)


def test_equals_the_original_past_the_point_where_the_context_slides() -> None:
    """By three windows: without a voice that point is 4.4 s from the start."""
    ours = assert_like_the_original(NARROW, letters(40), None, seconds=5.7, early_stop=False)
    source = CoarseInput(None, NARROW)
    source.extend(ours.semantic.tolist())
    starts = range(0, source.total, NARROW.coarse.window)
    assert sum(start / NARROW.ratio > NARROW.max_semantic_history for start in starts) >= 3


def test_the_longest_clip_equals_the_original_through_three_fine_windows() -> None:
    ours = assert_like_the_original(NARROW, letters(40), history(NARROW, 700), early_stop=False)
    assert len(ours.semantic) == 768
    frames = ours.fine_codes.shape[1]
    assert frames == 1154 and frames > 1024 - 512 + 512  # past the second window's end


def test_a_clip_that_ends_by_itself_equals_the_original() -> None:
    ours = assert_like_the_original(NARROW, letters(12), None)
    assert 100 < len(ours.semantic) < 700


@pytest.mark.parametrize(
    ("voice", "pieces"), [(None, 1), (None, 400), (5, 40), (31, 400), (58, 1), (192, 40), (700, 40)]
)
def test_an_odd_shape_equals_the_original(voice: int | None, pieces: int) -> None:
    """Other context, blocks, windows, offsets, rates and codec, through many windows of each."""
    given = None if voice is None else history(ODD, voice)
    ours = assert_like_the_original(ODD, letters(pieces), given, early_stop=False)
    assert len(ours.semantic) == ODD.semantic.max_steps
    assert ours.fine_codes.shape[1] > ODD.fine.window + 3 * ODD.fine.hop


@pytest.mark.parametrize("voice", [None, 31, 192])
def test_an_odd_clip_that_ends_by_itself_equals_the_original(voice: int | None) -> None:
    given = None if voice is None else history(ODD, voice)
    ours = assert_like_the_original(ODD, letters(20), given)
    assert 50 < len(ours.semantic) < ODD.semantic.max_steps


@pytest.mark.parametrize(
    ("voice", "frames"),
    [(v, n) for v in (None, 700) for n in (1, 511, 1023, 1024, 1025, 1536, 2200)] + [(100, 1536)],
)
def test_the_fine_stage_alone_equals_the_original(voice: int | None, frames: int) -> None:
    """Around every edge of the windows, and longer than an utterance can get: three windows."""
    given = None if voice is None else history(NARROW, voice)
    rng = np.random.default_rng(frames)
    coarse_codes = rng.integers(1024, size=(2, frames))
    theirs = original(NARROW).fine(coarse_codes, given)
    np.testing.assert_array_equal(fine_codes(NARROW, coarse_codes, given), theirs)


@pytest.mark.parametrize("config", [NARROW, ODD_64], ids=["narrow", "odd"])
@pytest.mark.parametrize("voice", [None, 58, 256])
def test_equals_transformers(config: ModelConfig, voice: int | None) -> None:
    """Its settings matched: greedy, fine temperature 1 (argmax there), no early end rule."""
    given = None if voice is None else history(config, voice)
    text = letters(40)
    tokens = 90
    samples, done = generate(config, text, given, seconds=(tokens - 0.5) / config.semantic.rate_hz)
    text_tokens = tiny_model(config).tokenizer.encode(text).text_tokens
    semantic, coarse_codes, all_codes, waveform = transformers(config).codes_and_waveform(
        text_tokens, given, max_tokens=tokens
    )
    assert len(semantic) == tokens
    np.testing.assert_array_equal(done.history.semantic, semantic)
    np.testing.assert_array_equal(done.history.coarse_codes, coarse_codes)
    np.testing.assert_array_equal(done.history.fine_codes, all_codes)
    assert np.abs(samples - waveform).max() <= WAVEFORM
    assert len(set(semantic.tolist())) > tokens / 10
