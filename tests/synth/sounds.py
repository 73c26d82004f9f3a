"""Signals for audio tests, and an independent reading of what came out: FFmpeg's own meters."""

import math
import re
import subprocess
from pathlib import Path

import numpy as np

from synth.audio import find_ffmpeg

RATE = 24_000


def speech_like(seconds: float, peak: float = 0.5, seed: int = 0) -> np.ndarray:
    """Noise with the spectrum and the syllables of speech. (N,) float32 at RATE."""
    n = int(seconds * RATE)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(n))
    hertz = np.fft.rfftfreq(n, 1 / RATE)
    noise = np.fft.irfft(spectrum * (hertz > 80) / (1 + (hertz / 500) ** 2), n)
    syllables = np.clip(np.sin(2 * np.pi * 3 * np.arange(n) / RATE) + 0.5, 0, 1)
    voice = noise * syllables
    return (voice * peak / np.abs(voice).max()).astype(np.float32)


def peaky(seconds: float, peak: float = 0.5, seed: int = 0) -> np.ndarray:
    """The same with the single peaks that nano's speech has, 24 dB over its loudness."""
    voice = speech_like(seconds, 1.0, seed)
    return (peak * np.sign(voice) * np.abs(voice) ** 2.1).astype(np.float32)


def sine(seconds: float, hertz: float = 440, peak: float = 0.5) -> np.ndarray:
    """(N,) float32 at RATE."""
    return (peak * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)).astype("f4")


def meter(path: Path) -> tuple[float, float]:
    """Integrated loudness in LUFS and true peak in dBTP of a file, as its decoder plays it."""
    done = subprocess.run(
        [find_ffmpeg(), "-hide_banner", "-nostdin", "-i", str(path)]
        + ["-af", "ebur128=peak=true", "-f", "null", "-"],
        capture_output=True,
        text=True,
        check=True,
    )
    summary = done.stderr.rpartition("Summary:")[2]
    found = re.search(r"I:\s+(\S+) LUFS.*Peak:\s+(\S+) dBFS", summary, re.DOTALL)
    assert found, done.stderr
    return float(found[1]), float(found[2])


def decode(path: Path, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """(N, channels) float32 at `rate` Hz, of whatever FFmpeg can read."""
    done = subprocess.run(
        [find_ffmpeg(), "-v", "error", "-nostdin", "-i", str(path)]
        + ["-af", f"aresample={rate}", "-f", "f32le", "-ac", str(channels), "-"],
        capture_output=True,
        check=True,
    )
    return np.frombuffer(done.stdout, np.float32).reshape(-1, channels)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """The highest normalised correlation of two signals over all delays."""
    size = 1 << math.ceil(math.log2(len(a) + len(b)))
    crossed = np.fft.irfft(np.fft.rfft(a, size) * np.conj(np.fft.rfft(b, size)), size)
    return float(np.abs(crossed).max() / (np.linalg.norm(a) * np.linalg.norm(b)))
