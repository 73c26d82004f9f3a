"""Where the oscillator's phase is put in time, and the pulses that follow it."""

import numpy as np
import pytest

from synth.errors import InvalidRequest
from synth.nano import oscillator
from synth.nano.aligned import align_shards, phase_of
from synth.nano.recipe import CODEC, Paths
from synth.nano.teacher import _pulses

STEP = CODEC.hop // oscillator.STEPS


@pytest.mark.parametrize("pitch", [90.0, 180.0, 400.0])
def test_phase_goes_evenly_through_the_ends_of_steps(pitch: float) -> None:
    ends = STEP * np.arange(1, 61)
    phasors = 0.7 * np.exp(2j * np.pi * pitch * ends / CODEC.sample_rate)
    skipped = 960
    phase = phase_of(phasors, skipped)
    samples = np.arange(0, skipped + 80 * STEP)
    expected = pitch * (samples - skipped) / CODEC.sample_rate
    away = (phase(samples) - expected + 0.5) % 1 - 0.5
    np.testing.assert_allclose(away, 0, atol=1e-6)  # before and behind what is known, too


def test_pulses_are_harmonics_of_one_size_below_the_top() -> None:
    pitch, top = 200.0, 3100.0
    phase = pitch * np.arange(24_000) / CODEC.sample_rate
    spectrum = 2 * np.abs(np.fft.rfft(_pulses(phase, top))) / len(phase)
    peaks = spectrum[int(pitch) : int(top) : int(pitch)]
    np.testing.assert_allclose(peaks, 1, atol=0.02)
    assert spectrum[int(top) + 100 :].max() < 0.02


def test_without_tokens_nothing_is_aligned(tmp_path) -> None:
    with pytest.raises(InvalidRequest, match="run `tokens` first"):
        align_shards(Paths(tmp_path), 1)
