"""The loudness of sound that is still being made, against FFmpeg's meter."""

import math
from pathlib import Path

import numpy as np
import pytest

from synth.audio import MOST_HELD_DB, TARGET_LUFS, measure, normalise_gain, open_ffmpeg, run
from synth.live_audio import LIMIT
from synth.stream_gain import Meter, StreamGain, VoiceLevels
from tests.synth.sounds import RATE, peaky, sine, speech_like


def lufs(samples: np.ndarray, channels: int = 1) -> float:
    return run(measure(samples, RATE, ffmpeg=open_ffmpeg(), channels=channels)).integrated_lufs


def whole(samples: np.ndarray, channels: int = 1) -> float:
    """The loudness of a clip that was complete before it was heard: the target, or its peaks'."""
    gain = normalise_gain(samples, RATE, channels=channels)
    return lufs(samples * gain, channels)


def streamed(samples: np.ndarray, gain: StreamGain, piece: int = RATE // 3) -> np.ndarray:
    return np.concatenate([gain(samples[i : i + piece]) for i in range(0, len(samples), piece)])


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    "samples",
    [
        sine(3.0, 60),
        sine(3.0, 1000, 0.1),
        sine(3.0, 8000),
        speech_like(6.0, seed=1),
        np.concatenate([speech_like(4.0, seed=2), np.zeros(4 * RATE, np.float32)]),
    ],
)
def test_the_meter_reads_as_ffmpegs(samples: np.ndarray, channels: int) -> None:
    meter = Meter(RATE, channels)
    for begin in range(0, len(samples), 777):
        meter.add(samples[begin : begin + 777])
    level = meter.level
    assert -0.691 + 10 * np.log10(level.power) == pytest.approx(lufs(samples, channels), abs=0.6)
    assert 0 < level.seconds <= len(samples) / RATE
    assert level.peak == np.abs(samples).max()


@pytest.mark.parametrize("peak", [0.03, 0.2, 0.9])
@pytest.mark.parametrize("seconds", [2.0, 6.0])
def test_a_voices_next_clip_is_as_loud_as_all_others(peak: float, seconds: float) -> None:
    """Within 3 LU, also where the clip is some dB louder or softer than the one before."""
    levels = VoiceLevels()
    first = StreamGain(levels, "a", RATE, channels=2)
    streamed(speech_like(5.0, peak, seed=4), first)
    first.finish()
    for other in (0.8, 1.0, 1.25):
        clip = speech_like(seconds, peak * other, seed=9)
        heard = streamed(clip, StreamGain(levels, "a", RATE, channels=2))
        assert lufs(heard, 2) == pytest.approx(whole(clip, 2), abs=3)


@pytest.mark.parametrize("peak", [0.1, 0.3, 0.9])
def test_a_voice_that_was_never_heard_comes_to_the_same_loudness(peak: float) -> None:
    clip = speech_like(8.0, peak, seed=6)
    heard = streamed(clip, StreamGain(VoiceLevels(), None, RATE))
    assert lufs(heard[2 * RATE :]) == pytest.approx(whole(clip), abs=3)


def test_the_gain_never_leaps(tmp_path: Path) -> None:
    loud = np.concatenate([sine(2.0, peak=0.01), sine(4.0, peak=0.9)])
    heard = streamed(loud, StreamGain(VoiceLevels(), None, RATE), 2400)
    gains = heard[1000:] / np.where(np.abs(loud[1000:]) > 1e-3, loud[1000:], np.nan)
    steps = 20 * np.log10(gains[RATE // 10 :] / gains[: -RATE // 10])
    assert np.nanmax(np.abs(steps)) < 0.8  # in a tenth of a second


def test_silence_is_left_alone_and_teaches_nothing() -> None:
    levels = VoiceLevels()
    gain = StreamGain(levels, "a", RATE)
    heard = streamed(np.zeros(RATE, np.float32), gain)
    gain.finish()
    assert not heard.any() and heard.dtype == np.float32
    assert levels.of("a") == VoiceLevels().of("a")


def test_a_voice_without_a_name_is_another_one_each_time() -> None:
    levels = VoiceLevels()
    meter = Meter(RATE)
    meter.add(sine(2.0))
    levels.learn(None, meter)
    levels.learn("a", meter)
    assert levels.of("a").seconds > levels.of(None).seconds == levels.of("b").seconds


def test_a_voice_whose_peaks_are_high_is_softer_and_not_squeezed() -> None:
    """As a whole clip is: its peaks are kept, and the limiter has next to nothing to do."""
    rng = np.random.default_rng(0)
    levels, heard = VoiceLevels(), np.zeros(0)
    for _ in range(2):
        crackle = np.where(rng.random(4 * RATE) < 1e-3, 0.5, 1e-4).astype(np.float32)
        gain = StreamGain(levels, "a", RATE)
        heard = streamed(crackle, gain)
        gain.finish()
    assert LIMIT / 2 < np.abs(heard).max() <= LIMIT * 1.01


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("seed", [1, 2])
def test_what_the_limiter_takes_is_made_up_for(channels: int, seed: int) -> None:
    """A saved voice's "Yes." was 3.6 LU below the target: a fifth of what the highest peak lost was
    made up for, and nothing beyond what the limiter may take, which mono needs twice as much of.
    """
    levels, limit_db = VoiceLevels(), 20 * math.log10(LIMIT)
    clip = peaky(5.0, 0.9, seed)
    for _ in ("first", "next"):
        gain = StreamGain(levels, "me.npz", RATE, channels=channels, held_db=MOST_HELD_DB)
        made = streamed(clip, gain)
        gain.finish()
        meter = measure(made, RATE, ffmpeg=open_ffmpeg(), channels=channels, limit_db=limit_db)
        assert run(meter).integrated_lufs == pytest.approx(TARGET_LUFS, abs=3)
