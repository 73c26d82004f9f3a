"""Utterances one after the other: silence at their ends taken off, a pause and no click between.

Works on sound as it comes: what is handed out is final. Knows nothing of jobs or of texts.
"""

import numpy as np

from synth.level import FRAME_S, Samples, frame_rms, is_loud

# Kept of the silence at an end: a breath in, and what fades out below the level of silence.
_BEFORE_S, _AFTER_S = 0.05, 0.12
FADE_S = 0.01
_NOTHING = np.zeros(0, np.float32)


class Trim:
    """One utterance without the silence at its ends. One that is all silence stays as it is."""

    def __init__(self, sample_rate: int) -> None:
        self._frame = round(FRAME_S * sample_rate)
        self._before = round(_BEFORE_S * sample_rate)
        self._after = round(_AFTER_S * sample_rate)
        self._held = _NOTHING  # silence that may be inside, and less than a frame
        self._loudest = 0.0
        self._begun = False
        self.off_start = self.off_end = 0  # samples taken off

    def push(self, samples: Samples) -> Samples:
        """The next samples -> those that are certain to be kept by now."""
        held = np.concatenate([self._held, samples])
        frames = len(held) // self._frame
        levels = frame_rms(held[: frames * self._frame], self._frame)
        loud = np.flatnonzero(is_loud(levels, self._loudest))
        if not len(loud):
            self._held = held
            return _NOTHING
        self._loudest = max(self._loudest, float(levels.max()))
        first, end = loud[0] * self._frame, (loud[-1] + 1) * self._frame
        start = 0
        if not self._begun:
            self._begun = True
            start = self.off_start = max(0, first - self._before)
        self._held = held[end:]
        return held[start:end]

    def finish(self) -> Samples:
        """What is kept of the silence at the end."""
        tail = self._held
        if self._begun:
            tail = tail[: self._after]
            self.off_end = len(self._held) - len(tail)
        self._held = _NOTHING
        return tail


class Joiner:
    """A clip made of utterances: `begin` one, `push` its samples, `end` it; what comes back is the
    clip, in order.

    trim: whether silence is taken off. Without it, a single utterance passes untouched.
    """

    def __init__(self, sample_rate: int, *, trim: bool = True) -> None:
        self._rate = sample_rate
        self._trims = trim
        self._fade = round(FADE_S * sample_rate)
        self._gain = 1.0
        self._trim = Trim(sample_rate)
        self._joint = False  # an utterance came before
        self._head = 0  # samples of this utterance that were handed out or are held
        self._held = _NOTHING  # the last of it: may have to fade out
        self._overlap = _NOTHING  # the end of the one before, faded out, to be mixed in
        self.trimmed_s = 0.0  # of the utterance at hand

    def begin(self, gain: float = 1.0) -> None:
        self._gain = gain
        self._trim = Trim(self._rate)
        self._head = 0
        self.trimmed_s = 0.0

    def push(self, samples: Samples) -> Samples:
        kept = self._trim.push(samples) if self._trims else samples
        return self._shaped(kept)

    def end(self, pause_s: float, *, last: bool = False) -> Samples:
        """The rest of the utterance and the silence after it; `last`: nothing follows."""
        out = [self._shaped(self._trim.finish() if self._trims else _NOTHING)]
        self.trimmed_s = (self._trim.off_start + self._trim.off_end) / self._rate
        tail, self._held = self._held, _NOTHING
        if not last or self._trim.off_end:
            tail = tail * np.linspace(1.0, 0.0, len(tail), dtype=np.float32)
        if last or pause_s > 0:
            silence = np.zeros(0 if last else round(pause_s * self._rate), np.float32)
            out += [self._flush(), tail, silence]
        else:
            out.append(self._flush())
            self._overlap = tail
        self._joint = True
        return np.concatenate(out)

    def _flush(self) -> Samples:
        """What waits to be mixed in, where too little came to mix it into."""
        overlap, self._overlap = self._overlap, _NOTHING
        return overlap

    def _shaped(self, kept: Samples) -> Samples:
        """Gain, the fade at the beginning, and the last samples held back."""
        if not len(kept):
            return _NOTHING
        kept = kept if self._gain == 1.0 else (kept * np.float32(self._gain))
        if self._head < self._fade and (self._joint or self._trim.off_start):
            kept = kept.copy()
            ramp = np.arange(self._head, min(self._fade, self._head + len(kept)))
            kept[: len(ramp)] *= ((ramp + 0.5) / self._fade).astype(np.float32)
        self._head += len(kept)
        held = np.concatenate([self._held, kept])
        if len(held) >= max(self._fade, len(self._overlap)) and len(self._overlap):
            held = held.copy()
            held[: len(self._overlap)] += self._flush()
        if len(self._overlap):  # too little yet to mix into
            self._held = held
            return _NOTHING
        cut = max(0, len(held) - self._fade)
        self._held = held[cut:]
        return held[:cut]
