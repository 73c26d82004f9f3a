"""Teacher speech: one permissively licensed voice, read in four ways, with cues made of sound.

hibari-tts predicts a spectral envelope and a pitch curve per 12.5 ms frame and renders them with a
pulse source, so a voice can be changed before it is rendered: F0 scaled, the envelope stretched
along frequency (the length of the vocal tract), intonation flattened or widened, the pace changed.
The untouched rendering is kept beside it: semantic tokens are taken from that one, which makes them
say what is spoken and not by whom.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from synth.nano.recipe import CODEC, Voice

_FRAME_S = 0.0125
_FLOOR = 0.004  # amplitude below which leading and trailing sound is silence
_LEVEL = 0.075  # RMS of every utterance
_CUE = re.compile(r"\[(laughs|laughter|sighs|gasps|clears throat|music)\]|♪")


@dataclass
class Speech:
    """One utterance: the voice's waveform, the teacher's own, F0 per codec frame (0: unvoiced)."""

    audio: np.ndarray
    base: np.ndarray
    f0: np.ndarray


def _stretch(envelope: np.ndarray, factor: float) -> np.ndarray:
    """Move every feature of a (bins, frames) envelope from frequency f to f * factor."""
    at = np.arange(len(envelope)) / factor
    low = np.minimum(at.astype(int), len(envelope) - 2)
    part = np.minimum(at - low, 1.0).astype(np.float32)[:, None]
    return envelope[low] * (1 - part) + envelope[low + 1] * part


class Teacher:
    """The teacher's voice, loaded once."""

    def __init__(self) -> None:
        from hibari import Hibari, dsp  # pyright: ignore[reportMissingImports]

        self._tts: Any = Hibari()
        self._render: Any = dsp.synth

    def speak(self, text: str, voice: Voice, seed: int) -> Speech | None:
        """Read `text`, cues included; None if nothing audible comes out.

        Audio is float32 at 24 kHz, a whole number of codec frames long, at one level throughout.
        """
        rng = np.random.default_rng(seed)
        parts: list[Speech] = []
        at = 0
        for cue in _CUE.finditer(text):
            parts += self._read(text[at : cue.start()], voice, rng)
            parts.append(self._event(cue.group(1) or "music", voice, rng))
            at = cue.end()
        parts += self._read(text[at:], voice, rng)
        if not parts:
            return None
        return _trim(_join(parts))

    def _read(self, text: str, voice: Voice, rng: np.random.Generator) -> list[Speech]:
        if not any(c.isalnum() for c in text):
            return []
        return [
            self._frames(self._tts.ids(p), voice, voice.speed, rng)
            for p in self._tts.phonemize(_as_read(text))
        ]

    def _frames(
        self,
        ids: list[int],
        voice: Voice,
        speed: float,
        rng: np.random.Generator,
        breathy: bool = False,
    ) -> Speech:
        feed = {"ids": np.asarray([ids], np.int64), "speed": np.asarray([speed], np.float32)}
        lh, th, ln, lr, phi, f0 = (o[0] for o in self._tts.sess.run(None, feed))
        if breathy:
            f0 = np.zeros_like(f0)
            lh = lh - 4.0
        voiced = f0 > 40
        seed = int(rng.integers(1 << 31))
        base = self._render(lh, th, ln, lr, phi, f0, np.random.default_rng(seed))
        if voice.pitch == voice.formant == voice.swing == 1.0:
            audio, pitch = base, f0
        else:
            middle = np.median(f0[voiced]) if voiced.any() else 1.0
            bent = middle * voice.pitch * (np.maximum(f0, 1.0) / middle) ** voice.swing
            pitch = np.where(voiced, bent, 0.0).astype(np.float32)
            lh, ln, lr = (_stretch(x, voice.formant) for x in (lh, ln, lr))
            # The phase correction belongs to the teacher's own harmonics: without it is better.
            audio = self._render(
                lh, np.zeros_like(th), ln, lr, phi, pitch, np.random.default_rng(seed)
            )
        return Speech(audio, base, _per_frame(pitch, len(audio)))

    def _event(self, kind: str, voice: Voice, rng: np.random.Generator) -> Speech:
        """A sound in place of a cue: laughter, a sigh, a gasp, a cough or a few notes."""
        ids = self._tts.ids
        if kind in ("laughs", "laughter"):
            syllable = str(rng.choice(["hˈʌ", "hˈɑ", "hˈæ"]))
            count = int(rng.integers(3, 6 if kind == "laughs" else 8))
            return self._frames(ids((syllable + " ") * count + "."), voice, 1.25, rng)
        if kind == "clears throat":
            return self._frames(ids("əhˈʌm."), voice, 1.0, rng)
        if kind == "sighs":
            return self._frames(ids("hˈɑːː."), voice, 0.7, rng, breathy=True)
        if kind == "gasps":
            part = self._frames(ids("hˈɑ."), voice, 1.1, rng, breathy=True)
            return Speech(part.audio[::-1].copy(), part.base[::-1].copy(), part.f0)
        return _melody(rng)


def _as_read(text: str) -> str:
    """Shouted words as words, not letter by letter; a dash as a pause."""
    text = re.sub(r"\b[A-Z]{2,}(?:'[A-Z]+)?\b", lambda m: m.group().lower(), text)
    return text.replace(" — ", ", ")


def _per_frame(f0: np.ndarray, samples: int) -> np.ndarray:
    """The teacher's 80 Hz pitch curve at the codec's frame rate, nearest frame."""
    frames = -(-samples // CODEC.hop)
    at = ((np.arange(frames) + 0.5) / CODEC.frame_rate / _FRAME_S).astype(int)
    return f0[np.minimum(at, len(f0) - 1)].astype(np.float32)


def _melody(rng: np.random.Generator) -> Speech:
    """Four to six plucked notes of a major pentatonic scale."""
    scale = 262.0 * 2 ** (np.array([0, 2, 4, 7, 9, 12]) / 12)
    notes = []
    for pitch in rng.choice(scale, int(rng.integers(4, 7))):
        t = np.arange(int(0.24 * CODEC.sample_rate)) / CODEC.sample_rate
        tone = sum(np.sin(2 * np.pi * pitch * h * t) / h**1.6 for h in range(1, 7))
        notes.append(tone * np.exp(-t * 7) * np.minimum(t / 0.005, 1))
    audio = (0.12 * np.concatenate(notes)).astype(np.float32)
    return Speech(audio, audio, np.zeros(-(-len(audio) // CODEC.hop), np.float32))


def _join(parts: list[Speech]) -> Speech:
    """One after another, each padded to whole frames."""
    hop = CODEC.hop

    def whole(x: np.ndarray) -> np.ndarray:
        return np.pad(x, (0, -len(x) % hop))

    return Speech(
        np.concatenate([whole(p.audio) for p in parts]),
        np.concatenate([whole(p.base) for p in parts]),
        np.concatenate([p.f0 for p in parts]),
    )


def _trim(speech: Speech) -> Speech | None:
    """Silence cut to 60 ms in front and 120 ms behind, in whole frames, and the level set."""
    hop = CODEC.hop
    energy = np.sqrt(np.mean(speech.base.reshape(-1, hop) ** 2, axis=1))
    loud = np.flatnonzero(energy > _FLOOR)
    if len(loud) == 0:
        return None
    first, last = max(0, loud[0] - 3), min(len(energy), loud[-1] + 7)
    cut = slice(first * hop, last * hop)
    levelled = [
        np.clip(x[cut] * (_LEVEL / np.sqrt(np.mean(x[cut] ** 2))), -1, 1).astype(np.float32)
        for x in (speech.audio, speech.base)
    ]
    return Speech(levelled[0], levelled[1], speech.f0[first:last])
