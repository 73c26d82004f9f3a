"""A text on its way to sound: which utterance may be worked on next, and what the reader is told.

Takes in what happens to the single utterances and gives out the events of one job: sound in the
order of the text, one progress, one end. All utterances of a voice continue the same history, the
named voice's, or else what came of the first, so that none drifts away. Waits for nothing and knows
no clock, queue or worker: `synth.performance` and `synth.api` drive it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from synth.errors import SynthError
from synth.estimate import StageShares
from synth.joining import Joiner
from synth.level import Samples, loudness_lufs
from synth.longform import Utterance
from synth.pace import weight
from synth.protocol import (
    Audio,
    Done,
    HistoryPrompt,
    JobEvent,
    Progress,
    Rendition,
    Sampling,
    Stage,
    Streaming,
    Submit,
    Timings,
)
from synth.seeds import derived_seed
from synth.takes import score

_RETRIES = 1  # of an utterance that failed, before the whole text does
_MOST_GAIN_DB = 12.0  # what has to be made louder by more than that is no voice


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How a text is spoken.

    cast: speaker -> voice, in a dialogue; who is not in it speaks with `voice`.
    live: sound is given out as it comes, each utterance at the loudness the voice had so far; else
    a whole utterance at a time, all equally loud.
    rerolls: how often an utterance whose end does not come is begun anew (`Submit.rerolls`).
    takes: candidates for each utterance, of which the best is heard.
    plain: nothing is trimmed, levelled or begun anew: Bark's own sound.
    most_s: where the whole clip is cut.
    """

    voice: str | HistoryPrompt | None = None
    cast: Mapping[str, str | HistoryPrompt | None] = field(default_factory=dict)
    sampling: Sampling = field(default_factory=Sampling)
    streaming: Streaming | None = None  # None: exact
    live: bool = False
    takes: int = 1
    rerolls: int | None = None  # None: 0
    plain: bool = False
    most_s: float | None = None
    deadline_s: float | None = None


@dataclass(eq=False)
class _Take:
    """One try at one utterance."""

    submit: Submit
    chunks: list[Samples] = field(default_factory=list)
    fraction: float = 0.0
    done: Done | None = None

    @property
    def samples(self) -> Samples:
        return np.concatenate(self.chunks) if self.chunks else np.zeros(0, np.float32)


@dataclass(eq=False)
class _Part:
    """One utterance and all that was tried for it."""

    utterance: Utterance
    weight: float
    takes: list[_Take | None]  # None: not submitted yet
    retries: int = 0
    stage: Stage = Stage.SEMANTIC
    best: _Take | None = None  # all takes are done, and this is the one
    given: int = 0  # chunks of it that were handed out

    @property
    def fraction(self) -> float:
        tried = [take.fraction if take else 0.0 for take in self.takes]
        return 1.0 if self.best else sum(tried) / len(tried)


class Recital:
    """The utterances of one job. Drive it: `next_submit` while there is one, `happened` for each
    event of a submit, `failed` for each that failed, until `over`.
    """

    def __init__(
        self,
        job_id: str,
        utterances: Sequence[Utterance],
        manner: Manner,
        *,
        sample_rate: int,
        shares: StageShares | None = None,
    ) -> None:
        assert utterances
        self.job_id = job_id
        self._manner = manner
        self._rate = sample_rate
        self._shares = shares or StageShares()
        self._parts = [
            _Part(utterance, max(1.0, weight(utterance.text)), [None] * max(1, manner.takes))
            for utterance in utterances
        ]
        self._where: dict[str, tuple[_Part, int]] = {}  # submit id -> part, take
        self._voices: dict[str, HistoryPrompt] = {}  # speaker without a voice -> what came first
        self._joiner = Joiner(sample_rate, trim=not manner.plain)
        self._at = 0  # the part that is being handed out
        self._chunks = 0  # of it
        self._given = 0  # samples of the clip
        self._start = 0  # where the part at hand begins in it
        self._loudness: float | None = None  # that all are brought to: the first one's
        self._gains: dict[str, float] = {}
        self._renditions: list[Rendition] = []
        self._notes: dict[str, None] = {}
        self._timings = Timings()
        self._whole = 0.0
        self.over = False

    @property
    def single(self) -> bool:
        """One submit is all there is to it."""
        return len(self._parts) == 1 and len(self._parts[0].takes) == 1

    @property
    def sounding(self) -> tuple[str, float] | None:
        """The submit whose sound is handed out now or next, and where in the clip it begins, in
        seconds.
        """
        part = self._parts[self._at] if self._at < len(self._parts) else None
        if part is None or (take := part.takes[0]) is None:
            return None
        return take.submit.job_id, self._start / self._rate

    def left(self) -> Iterator[str]:
        """The texts of what was not submitted yet."""
        for part in self._parts:
            for take in part.takes:
                if take is None:
                    yield part.utterance.text

    def next_submit(self) -> Submit | None:
        """What may be worked on now, in the order of the text; None: nothing, for now or at all."""
        if self.over:
            return None
        waiting: set[str] = set()  # speakers whose voice is still being made
        for number, part in enumerate(self._parts):
            speaker = part.utterance.speaker
            voice = self._manner.cast.get(speaker, self._manner.voice)
            voice = self._voices.get(speaker) if voice is None else voice
            if speaker in waiting:
                continue
            if voice is None and part.best is None:
                waiting.add(speaker)
            for index, take in enumerate(part.takes):
                if take is None:
                    return self._submit(number, index, voice)
        return None

    def _submit(self, number: int, index: int, voice: str | HistoryPrompt | None) -> Submit:
        part, manner = self._parts[number], self._manner
        # Not the addresses of the engine's own new tries.
        seed = derived_seed(manner.sampling.seed, 0, index, part.retries)
        # The first try of one utterance is the job itself: its seed makes the same clip.
        job_id = self.job_id
        if not self.single or part.retries:
            job_id += f".{number + 1}" + (f".{index + 1}" if len(part.takes) > 1 else "")
            job_id += f".again{part.retries}" if part.retries else ""
        submit = Submit(
            job_id=job_id,
            text=part.utterance.text,
            voice=voice,
            sampling=replace(manner.sampling, seed=seed),
            utterance=number,
            streaming=manner.streaming or Streaming.EXACT,
            rerolls=0 if manner.plain else manner.rerolls or 0,
            scored=len(part.takes) > 1,
            deadline_s=manner.deadline_s,
        )
        part.takes[index] = _Take(submit)
        self._where[job_id] = part, index
        return submit

    def happened(self, event: JobEvent) -> list[Progress | Audio | Done]:
        """Take in an event of a submit; what the reader is to be told."""
        if self.over or event.job_id not in self._where:
            return []
        part, index = self._where[event.job_id]
        take = part.takes[index]
        assert take is not None
        match event:
            case Progress():
                take.fraction = max(take.fraction, self._shares.fraction(event))
                part.stage = event.stage
                return [self._progress(event)]
            case Audio(samples=samples):
                take.chunks.append(samples)
            case Done():
                take.done = event
                self._shares.learn(event.timings)
                self._count(event.timings)
                self._choose(part)
            case _:
                return []
        return [*self._hand_out()]

    def failed(self, job_id: str, error: SynthError) -> None:
        """Try that utterance once more, with another seed. Raises the error when that was done, or
        the reader has some of it already.
        """
        part, index = self._where.pop(job_id)
        if self.single or part.retries >= _RETRIES or part.given:
            if len(self._parts) == 1:
                raise error
            place = f"Part {self._parts.index(part) + 1} of {len(self._parts)}"
            raise type(error)(f"{place} could not be spoken: {error}") from error
        part.retries += 1
        part.takes[index] = None

    def _progress(self, event: Progress) -> Progress:
        total = sum(part.weight for part in self._parts)
        whole = sum(part.weight * part.fraction for part in self._parts) / total
        self._whole = max(self._whole, whole)
        if len(self._parts) > 1:  # the stage of what will be heard next
            part = next((part for part in self._parts if part.best is None), self._parts[-1])
            event = replace(event, stage=part.stage)
        return replace(event, job_id=self.job_id, whole=self._whole)

    def _count(self, timings: Timings) -> None:
        first = self._timings == Timings()
        self._timings = replace(
            timings,
            semantic_s=self._timings.semantic_s + timings.semantic_s,
            coarse_s=self._timings.coarse_s + timings.coarse_s,
            fine_s=self._timings.fine_s + timings.fine_s,
            codec_s=self._timings.codec_s + timings.codec_s,
            queued_s=timings.queued_s if first else self._timings.queued_s,
            ttfa_s=timings.ttfa_s if first else self._timings.ttfa_s,
        )

    def _choose(self, part: _Part) -> None:
        takes = [take for take in part.takes if take is not None and take.done is not None]
        if len(takes) < len(part.takes):
            return

        def value(take: _Take) -> float:
            assert take.done is not None
            return score(part.utterance.text, take.samples, self._rate, take.done)

        part.best = takes[0] if len(takes) == 1 else max(takes, key=value)
        assert part.best.done is not None
        self._voices.setdefault(part.utterance.speaker, part.best.done.history)
        for take in takes:
            if take is not part.best:
                take.chunks.clear()

    # -- Handing out -------------------------------------------------------------------------------

    def _hand_out(self) -> Iterator[Audio | Done]:
        while self._at < len(self._parts) and not self.over:
            part = self._parts[self._at]
            take = part.best
            if take is None and self._manner.live and len(part.takes) == 1:
                take = part.takes[0]
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
        if self._at == len(self._parts) and not self.over:
            yield self._done()

    def _out(self, samples: list[Samples]) -> Iterator[Audio]:
        joined = np.concatenate(samples) if samples else np.zeros(0, np.float32)
        most_s = self._most_s
        if most_s is not None:
            left = round(most_s * self._rate) - self._given
            if len(joined) > left:
                joined = joined[: max(0, left)]
                self._notes[f"The clip was cut at {most_s:g} s."] = None
        if len(joined):
            self._given += len(joined)
            yield Audio(self.job_id, self._at, self._chunks, joined)
            self._chunks += 1

    def _gain(self, part: _Part) -> float:
        """What makes a part as loud as the first; while it is being made, what did so for the last
        one of its voice.
        """
        speaker = part.utterance.speaker
        if self._manner.plain or len(self._parts) == 1:
            return 1.0
        if part.best is not None:
            self._measure(part, part.best)
        return self._gains.get(speaker, 1.0)

    def _measure(self, part: _Part, take: _Take) -> None:
        loudness = loudness_lufs(take.samples, self._rate)
        if loudness == -np.inf:
            return
        if self._loudness is None:
            self._loudness = loudness
        gain_db = min(max(self._loudness - loudness, -_MOST_GAIN_DB), _MOST_GAIN_DB)
        self._gains[part.utterance.speaker] = 10 ** (gain_db / 20)

    def _finish(self, part: _Part, take: _Take) -> None:
        assert take.done is not None
        done = take.done
        if not self._manner.plain and len(self._parts) > 1:
            self._measure(part, take)  # for the next of this voice
        made = done.renditions[0] if done.renditions else None
        made = made or Rendition(text=part.utterance.text, seed=done.seed, audio_s=0.0)
        pause_s = part.utterance.pause_s if self._at < len(self._parts) - 1 else 0.0
        audio_s = (self._given - self._start) / self._rate - pause_s
        self._renditions.append(
            replace(
                made,
                start_s=self._start / self._rate,
                audio_s=max(0.0, audio_s),
                trimmed_s=self._joiner.trimmed_s,
                takes=len(part.takes),
            )
        )
        self._notes |= dict.fromkeys(done.notes)
        take.chunks.clear()
        self._at += 1
        self._chunks = 0
        self._start = self._given
        if self._is_full:
            self._at = len(self._parts)

    @property
    def _most_s(self) -> float | None:
        """Where the clip is cut; a single utterance has its limit in its sampling."""
        return self._manner.most_s if len(self._parts) > 1 else None

    @property
    def _is_full(self) -> bool:
        most_s = self._most_s
        return most_s is not None and self._given >= round(most_s * self._rate)

    def _done(self) -> Done:
        self.over = True
        # The first part became the voice where there was none, so it is what is worth keeping;
        # after a named voice it is the last, from where the clip can be continued.
        named = self._manner.cast.get(self._parts[0].utterance.speaker, self._manner.voice)
        finished = [part.best.done for part in self._parts if part.best and part.best.done]
        kept = finished[0] if named is None else finished[-1]
        alone = len(self._parts) == 1
        return Done(
            job_id=self.job_id,
            audio_s=self._given / self._rate,
            seed=self._renditions[0].seed if alone else self._manner.sampling.seed,
            timings=self._timings,
            history=kept.history,
            notes=tuple(self._notes),
            renditions=tuple(self._renditions),
        )
