"""Teacher speech: one permissively licensed voice, read in four ways, with cues made of sound.

hibari-tts predicts a spectral envelope and a pitch curve per 12.5 ms frame and renders them with a
pulse source, so a voice can be changed before it is rendered: F0 scaled, the envelope stretched
along frequency (the length of the vocal tract), intonation flattened or widened, the pace changed.
The untouched rendering is kept beside it: semantic tokens are taken from that one, which makes them
say what is spoken and not by whom.
"""

import re
from collections.abc import Callable
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
    """One utterance: the voice's waveform, the teacher's own, F0 per codec frame (0: unvoiced).

    `skipped` samples were cut away in front. `harmonic` is the part of `audio` that pulses made,
    where the phase of the pulses was given; else None.
    """

    audio: np.ndarray
    base: np.ndarray
    f0: np.ndarray
    skipped: int = 0
    harmonic: np.ndarray | None = None


# Sample numbers of the uncut utterance -> phase in turns there, of a given pulse source.
Phase = Callable[[np.ndarray], np.ndarray]


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
        self._dsp: Any = dsp
        self._render: Any = dsp.synth
        self._phase: Phase | None = None
        self._at = 0  # sample of the uncut utterance that the next part begins at

    def speak(
        self, text: str, voice: Voice, seed: int, phase: Phase | None = None
    ) -> Speech | None:
        """Read `text`, cues included; None if nothing audible comes out.

        Audio is float32 at 24 kHz, a whole number of codec frames long, at one level throughout.
        With a `phase` the pulses of voiced sound follow it, and all of them have zero phase.
        """
        rng = np.random.default_rng(seed)
        self._phase, self._at = phase, 0
        parts: list[Speech] = []
        at = 0
        for cue in _CUE.finditer(text):
            parts += self._read(text[at : cue.start()], voice, rng)
            parts.append(self._event(cue.group(1) or "music", voice, rng))
            self._at += len(_whole(parts[-1].audio))
            at = cue.end()
        parts += self._read(text[at:], voice, rng)
        if not parts:
            return None
        return _trim(_join(parts))

    def _read(self, text: str, voice: Voice, rng: np.random.Generator) -> list[Speech]:
        if not any(c.isalnum() for c in text):
            return []
        parts: list[Speech] = []
        for phonemes in self._tts.phonemize(_as_read(text)):
            parts.append(self._frames(self._tts.ids(phonemes), voice, voice.speed, rng))
            self._at += len(_whole(parts[-1].audio))
        return parts

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
        if self._phase is None:
            return Speech(audio, base, _per_frame(pitch, len(audio)))
        harmonic = self._pulsed(lh, pitch)
        rest = self._render(lh - 60.0, th, ln, lr, phi, pitch, np.random.default_rng(seed))
        return Speech(rest + harmonic, base, _per_frame(pitch, len(audio)), harmonic=harmonic)

    def _pulsed(self, envelope: np.ndarray, f0: np.ndarray) -> np.ndarray:
        """What pulses at the given phase sound like under (bins, frames) log amplitudes."""
        assert self._phase is not None
        hop = int(_FRAME_S * CODEC.sample_rate)
        phase = self._phase(self._at + np.arange(len(f0) * hop))
        pulses = _pulses(phase) * np.repeat(f0 > 40, hop)
        spectrum = self._dsp.stft(pulses.astype(np.float32), len(f0))
        return self._dsp.ola(spectrum * self._dsp.ex(envelope))

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


def _pulses(phase: np.ndarray, top: float = 11_000.0) -> np.ndarray:
    """Pulses of a phase in turns: every harmonic below `top` Hz, at one."""
    rate = np.maximum(np.gradient(phase) * CODEC.sample_rate, 40.0)
    half = np.pi * (phase % 1)
    count = np.floor(top / rate) + 0.5
    low = np.sin(half)
    near = np.abs(low) <= 1e-3
    sum_of_cosines = np.sin(2 * count * half) / (2 * np.where(near, 1.0, low))
    return np.where(near, count, sum_of_cosines) - 0.5


def _as_read(text: str) -> str:
    """Shouted words as words, not letter by letter; a dash as a pause.

    A full stop behind a figure stands apart: with it, 555-0123 would be no telephone number and
    3-4 no range to the teacher.
    """
    text = re.sub(r"\b[A-Z]{2,}(?:'[A-Z]+)?\b", lambda m: m.group().lower(), text)
    text = re.sub(r"(?<=\d)\.(?=\s|$)", " .", text)
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


def _whole(x: np.ndarray) -> np.ndarray:
    """Padded to whole frames."""
    return np.pad(x, (0, -len(x) % CODEC.hop))


def _join(parts: list[Speech]) -> Speech:
    """One after another, each padded to whole frames."""
    pulsed = [np.zeros_like(p.audio) if p.harmonic is None else p.harmonic for p in parts]
    return Speech(
        np.concatenate([_whole(p.audio) for p in parts]),
        np.concatenate([_whole(p.base) for p in parts]),
        np.concatenate([p.f0 for p in parts]),
        harmonic=np.concatenate([_whole(x) for x in pulsed]),
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
    assert speech.harmonic is not None
    gain, base_gain = (_LEVEL / np.sqrt(np.mean(x[cut] ** 2)) for x in (speech.audio, speech.base))
    return Speech(
        np.clip(gain * speech.audio[cut], -1, 1).astype(np.float32),
        np.clip(base_gain * speech.base[cut], -1, 1).astype(np.float32),
        speech.f0[first:last],
        skipped=first * hop,
        harmonic=np.clip(gain * speech.harmonic[cut], -1, 1).astype(np.float32),
    )
