"""Low latency measured against exact."""

import numpy as np
import pytest

from synth import agreement
from synth.fine_windows import Lag
from synth.protocol import Sampling, Streaming
from tests.synth.tiny import RANDOM, history, tiny_model

CLIPS = [(1, "Hello there"), (2, "Good night")]


def test_a_clip_that_fits_one_window_agrees_wholly_when_it_is_seen_whole() -> None:
    whole = Lag(look_ahead=1, first=200, most=200, padding=10**6)
    (row,) = agreement.measure(tiny_model(), CLIPS[:1], seconds=1.0, lag=whole)
    for same in (row.greedy, row.same_noise):
        assert same.books == (1.0, 1.0) and same.log_mel_db == 0
    assert row.audio_s == 1.0
    assert max(row.other_noise.books) < 0.9 and row.other_noise.log_mel_db > 0.5


def test_the_lag_in_use_differs_and_the_table_says_how_much() -> None:
    voice = history(RANDOM, 60)
    rows = list(agreement.measure(tiny_model(), CLIPS, voice, seconds=2.0))
    for row in rows:
        for difference in (row.greedy, row.same_noise):
            assert all(0 < share < 1 for share in difference.books)
            assert difference.log_mel_db > 0.1
    lines = agreement.table(rows, RANDOM).splitlines()
    assert lines[0] == "| seed | s |  | book 2 | book 3 | log-mel dB |"
    assert len(lines) == 2 + 3 * 3 and len({line.count("|") for line in lines}) == 1
    shares = [row.greedy.books[0] for row in rows]
    assert f"| all |  | greedy | {np.mean(shares):.1%} |" in lines[4]


def test_more_look_ahead_agrees_more() -> None:
    """Where a code depends on what follows it, which in a random model it does."""
    model = tiny_model()
    coarse = np.random.default_rng(0).integers(RANDOM.codec.codebook_size, size=(2, 120))
    greedy = Sampling(fine_temperature=0.0)

    def same(look_ahead: int) -> float:
        lag = Lag(look_ahead=look_ahead, first=10, most=10, padding=10**6)
        codes = agreement.fine_codes(model, coarse, None, greedy, Streaming.LOW_LATENCY, lag=lag)
        return float((codes == exact)[2:].mean())

    exact = agreement.fine_codes(model, coarse, None, greedy, Streaming.EXACT)
    assert same(0) < same(119) == 1


def test_log_mel_of_a_sine_peaks_at_its_level_and_of_nothing_is_the_floor() -> None:
    rate = RANDOM.codec.sample_rate
    sine = 0.1 * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)
    mel = agreement.log_mel(sine.astype(np.float32), RANDOM)
    assert mel.shape == (101, 80)
    assert mel[50].max() == pytest.approx(-20, abs=6)
    assert (agreement.log_mel(np.zeros(rate, np.float32), RANDOM) == -80).all()
