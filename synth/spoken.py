"""What the listener of a text gets: its utterances in order, joined and equally loud, and what
became of each.

Takes in nothing itself: it looks at what has come for each `Part` and hands out what may be heard
by now. Knows no submit and no voice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from synth.joining import Joiner
from synth.level import Samples, loudness_lufs
from synth.longform import Utterance
from synth.protocol import Audio, Done, Rendition, Stage, Submit

_MOST_GAIN_DB = 12.0  # what has to be made louder by more than that is no voice


@dataclass(eq=False)
class Take:
    """One try at one utterance."""

    submit: Submit
    chunks: list[Samples] = field(default_factory=list)
    fraction: float = 0.0
    done: Done | None = None

    @property
    def samples(self) -> Samples:
        return np.concatenate(self.chunks) if self.chunks else np.zeros(0, np.float32)


@dataclass(eq=False)
class Part:
    """One utterance and all that was tried for it."""

    utterance: Utterance
    weight: float
    takes: list[Take | None]  # None: not submitted yet; drafts, where there are several
    retries: int = 0
    stage: Stage = Stage.SEMANTIC
    drafted: Take | None = None  # the best of several, of which `final` is made
    final: Take | None = None
    best: Take | None = None  # whole, and the one to be heard
    given: int = 0  # chunks of it that were handed out

    @property
    def heard(self) -> Take | None:
        """The one whose sound is or will be heard, once it is known and submitted."""
        return self.takes[0] if len(self.takes) == 1 else self.final

    @property
    def fraction(self) -> float:
        tried = [take.fraction if take else 0.0 for take in self.takes]
        so_far = max(sum(tried) / len(tried), self.final.fraction if self.final else 0.0)
        return 1.0 if self.best else so_far


class Spoken:
    """The clip of one job as it grows.

    live: sound is given out as it comes; else an utterance at a time. plain: nothing is trimmed or
    levelled. most_s: where the clip is cut; None: nowhere.
    """

    def __init__(
        self,
        job_id: str,
        parts: Sequence[Part],
        *,
        sample_rate: int,
        live: bool,
        plain: bool,
        most_s: float | None,
        notes: Sequence[str] = (),
    ) -> None:
        self._job_id, self._parts, self._rate = job_id, parts, sample_rate
        self._live, self._plain, self._most_s = live, plain, most_s
        self._joiner = Joiner(sample_rate, trim=not plain)
        self._at = 0  # the part that is being handed out
        self._chunks = 0  # of it
        self._given = 0  # samples of the clip
        self._start = 0  # where the part at hand begins in it
        self._loudness: float | None = None  # that all are brought to: the first one's
        self._gains: dict[str, float] = {}
        self.renditions: list[Rendition] = []
        self.notes: dict[str, None] = dict.fromkeys(notes)  # in the order they came

    @property
    def given_s(self) -> float:
        """Seconds of the clip that were handed out."""
        return self._given / self._rate

    @property
    def whole(self) -> bool:
        """Everything was handed out."""
        return self._at == len(self._parts)

    @property
    def sounding(self) -> tuple[Part, float] | None:
        """The part that is handed out now or next, and where in the clip it begins, in seconds."""
        return None if self.whole else (self._parts[self._at], self._start / self._rate)

    def hand_out(self) -> Iterator[Audio]:
        """What may be heard by now and was not handed out."""
        while not self.whole:
            part = self._parts[self._at]
            take = part.heard if self._live else part.best
            if take is None or (part.best is None and part.given == len(take.chunks)):
                return
            if part.given == 0:
                self._joiner.begin(self._gain(part))
            joined = [*map(self._joiner.push, take.chunks[part.given :])]
            part.given = len(take.chunks)
            if part.best is not None:
                last = self._at == len(self._parts) - 1
                joined.append(self._joiner.end(part.utterance.pause_s, last=last))
            yield from self._out(joined)
            if part.best is None:
                return
            self._finish(part, part.best)

    def _out(self, samples: list[Samples]) -> Iterator[Audio]:
        joined = np.concatenate(samples) if samples else np.zeros(0, np.float32)
        most_s = self._most_s
        if most_s is not None:
            left = round(most_s * self._rate) - self._given
            if len(joined) > left:
                joined = joined[: max(0, left)]
                self.notes[f"The clip was cut at {most_s:g} s."] = None
        if len(joined):
            self._given += len(joined)
            yield Audio(self._job_id, self._at, self._chunks, joined)
            self._chunks += 1

    def _gain(self, part: Part) -> float:
        """What makes a part as loud as the first; while it is being made, what did so for the last
        one of its voice.
        """
        speaker = part.utterance.speaker
        if self._plain or len(self._parts) == 1:
            return 1.0
        if part.best is not None:
            self._measure(part, part.best)
        return self._gains.get(speaker, 1.0)

    def _measure(self, part: Part, take: Take) -> None:
        loudness = loudness_lufs(take.samples, self._rate)
        if loudness == -np.inf:
            return
        if self._loudness is None:
            self._loudness = loudness
        gain_db = min(max(self._loudness - loudness, -_MOST_GAIN_DB), _MOST_GAIN_DB)
        self._gains[part.utterance.speaker] = 10 ** (gain_db / 20)

    def _finish(self, part: Part, take: Take) -> None:
        assert take.done is not None
        done = take.done
        if not self._plain and len(self._parts) > 1:
            self._measure(part, take)  # for the next of this voice
        made = done.renditions[0] if done.renditions else None
        made = made or Rendition(text=part.utterance.text, seed=done.seed, audio_s=0.0)
        pause_s = part.utterance.pause_s if self._at < len(self._parts) - 1 else 0.0
        audio_s = (self._given - self._start) / self._rate - pause_s
        self.renditions.append(
            replace(
                made,
                start_s=self._start / self._rate,
                audio_s=max(0.0, audio_s),
                trimmed_s=self._joiner.trimmed_s,
                takes=len(part.takes),
            )
        )
        self.notes |= dict.fromkeys(done.notes)
        if made.rerolls:
            often = {1: "once", 2: "twice"}.get(made.rerolls, f"{made.rerolls} times")
            note = f"The model lost its way and began anew {often}; seed {made.seed} is heard."
            self.notes[note] = None
        take.chunks.clear()
        self._at += 1
        self._chunks = 0
        self._start = self._given
        if self._is_full:
            self._at = len(self._parts)

    @property
    def _is_full(self) -> bool:
        most_s = self._most_s
        return most_s is not None and self._given >= round(most_s * self._rate)
