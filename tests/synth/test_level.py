"""Loudness without FFmpeg, against FFmpeg; levels of frames."""

import math

import numpy as np
import pytest

from synth.audio import measure, open_ffmpeg, run
from synth.level import frame_rms, is_loud, loudness_lufs

RATE = 24_000


def speechlike(seconds: float, seed: int = 0) -> np.ndarray:
    """Tones of a voice's range in bursts, with pauses."""
    rng = np.random.default_rng(seed)
    times = np.arange(int(seconds * RATE)) / RATE
    sound = sum(np.sin(2 * np.pi * f * times) / n for n, f in enumerate((180, 370, 1200, 2500), 1))
    bursts = np.repeat(rng.choice([0.0, 0.3, 1.0], size=len(times) // 2400 + 1), 2400)
    return (0.1 * sound * bursts[: len(times)]).astype(np.float32)


@pytest.mark.parametrize("seconds", [0.5, 1.0, 3.3, 12.0])
def test_loudness_is_what_ffmpegs_meter_says(seconds: float) -> None:
    samples = speechlike(seconds, seed=3)
    wanted = run(measure(samples, RATE, ffmpeg=open_ffmpeg())).integrated_lufs
    # Short clips are repeated for FFmpeg, which shifts its blocks.
    assert loudness_lufs(samples, RATE) == pytest.approx(wanted, abs=0.2 if seconds > 1 else 1.0)


def test_a_gain_is_a_gain() -> None:
    samples = speechlike(4.0)
    louder = loudness_lufs(samples * 2, RATE) - loudness_lufs(samples, RATE)
    assert louder == pytest.approx(20 * math.log10(2), abs=0.05)


def test_silence_has_no_loudness() -> None:
    for samples in (np.zeros(0, np.float32), np.zeros(RATE, np.float32)):
        assert loudness_lufs(samples, RATE) == -math.inf


def test_levels_of_frames_and_which_of_them_are_silent() -> None:
    samples = np.concatenate([np.full(10, 0.5), np.zeros(10), np.full(5, 0.002)])
    levels = frame_rms(samples.astype(np.float32), 10)
    np.testing.assert_allclose(levels, [0.5, 0.0, 0.002], rtol=1e-6)
    assert is_loud(levels).tolist() == [True, False, False]
    # A quiet voice after nothing is heard; after a loud one it is what lies between the words.
    quiet = np.full(3, 0.004, np.float32)
    assert is_loud(quiet).all() and not is_loud(quiet, loudest_before=0.9).any()
    assert len(frame_rms(np.zeros(0, np.float32), 10)) == 0
