"""A text on its way to sound: which utterance may be worked on next, and what the reader is told.

Takes in what happens to the single utterances and gives out the events of one job: sound in the
order of the text, one progress, one end. All utterances of a voice continue the same history, the
named voice's, or else what came of the first, so that none drifts away. Waits for nothing and knows
no clock, queue or worker: `synth.performance` and `synth.api` drive it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from synth.errors import SynthError
from synth.estimate import StageShares
from synth.longform import Utterance
from synth.pace import weight
from synth.protocol import (
    Audio,
    Done,
    HistoryPrompt,
    JobEvent,
    Progress,
    Sampling,
    Streaming,
    Submit,
    Timings,
)
from synth.seeds import derived_seed
from synth.spoken import Part, Spoken, Take
from synth.takes import score

_RETRIES = 1  # of an utterance that failed, before the whole text does


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How a text is spoken.

    cast: speaker -> voice, in a dialogue; who is not in it speaks with `voice`.
    live: sound is given out as it comes, each utterance at the loudness the voice had so far; else
    a whole utterance at a time, all equally loud.
    rerolls: how often an utterance whose end does not come is begun anew (`Submit.rerolls`).
    takes: candidates for each utterance, drafts of which only the best becomes sound.
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
        notes: Sequence[str] = (),
    ) -> None:
        """notes: what there is to tell of the text, whatever becomes of it."""
        assert utterances
        self.job_id = job_id
        self._manner = manner
        self._shares = shares or StageShares()
        self._parts = [
            Part(utterance, max(1.0, weight(utterance.text)), [None] * max(1, manner.takes))
            for utterance in utterances
        ]
        self._where: dict[str, tuple[Part, Take]] = {}  # by submit id
        self._voices: dict[str, HistoryPrompt] = {}  # speaker without a voice -> what came first
        self._spoken = Spoken(
            job_id,
            self._parts,
            sample_rate=sample_rate,
            live=manner.live,
            plain=manner.plain,
            # A single utterance has its limit in its sampling.
            most_s=manner.most_s if len(self._parts) > 1 else None,
            notes=notes,
        )
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
        sounding = self._spoken.sounding
        if sounding is None or (take := sounding[0].heard) is None:
            return None
        return take.submit.job_id, sounding[1]

    def left(self) -> Iterator[str]:
        """The texts whose sound was not submitted yet."""
        for part in self._parts:
            if part.heard is None:
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
                    return self._try(number, index, voice)
            if part.drafted is not None and part.final is None:
                return self._final(number, part.drafted)
        return None

    def _try(self, number: int, index: int, voice: str | HistoryPrompt | None) -> Submit:
        """The only take of a part, or one of its drafts."""
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
            draft=len(part.takes) > 1,
            deadline_s=manner.deadline_s,
        )
        take = part.takes[index] = Take(submit)
        self._where[job_id] = part, take
        return submit

    def _final(self, number: int, drafted: Take) -> Submit:
        """The best draft of a part, on its way to sound: what it would have been with its seed."""
        part, draft, done = self._parts[number], drafted.submit, drafted.done
        assert done is not None
        job_id = f"{self.job_id}.{number + 1}"
        job_id += f".again{part.retries}" if part.retries else ""
        submit = replace(
            draft,
            job_id=job_id,
            sampling=replace(draft.sampling, seed=done.seed),
            rerolls=0,
            draft=False,
            semantic_tokens=tuple(done.history.semantic.tolist()),
        )
        part.final = Take(submit)
        self._where[job_id] = part, part.final
        return submit

    def happened(self, event: JobEvent) -> list[Progress | Audio | Done]:
        """Take in an event of a submit; what the reader is to be told."""
        if self.over or event.job_id not in self._where:
            return []
        part, take = self._where[event.job_id]
        match event:
            case Progress():
                take.fraction = max(take.fraction, self._shares.fraction(event))
                part.stage = event.stage
                return [self._progress(event)]
            case Audio(samples=samples):
                take.chunks.append(samples)
            case Done():
                take.done = event
                self._count(event.timings)
                if take is part.heard:
                    self._is_whole(part, take)
                else:
                    self._choose(part)
            case _:
                return []
        told: list[Progress | Audio | Done] = [*self._spoken.hand_out()]
        return [*told, self._done()] if self._spoken.whole else told

    def failed(self, job_id: str, error: SynthError) -> None:
        """Try that once more, with another seed; the best draft, with its own. Raises the error
        when that was done, or the reader has some of it already.
        """
        part, take = self._where.pop(job_id)
        if self.single or part.retries >= _RETRIES or part.given:
            if len(self._parts) == 1:
                raise error
            place = f"Part {self._parts.index(part) + 1} of {len(self._parts)}"
            raise type(error)(f"{place} could not be spoken: {error}") from error
        part.retries += 1
        if take is part.final:
            part.final = None
        else:
            part.takes[part.takes.index(take)] = None

    def _progress(self, event: Progress) -> Progress:
        total = sum(part.weight for part in self._parts)
        whole = sum(part.weight * part.fraction for part in self._parts) / total
        self._whole = max(self._whole, whole)
        if len(self._parts) > 1:  # the stage of what will be heard next
            part = next((part for part in self._parts if part.best is None), self._parts[-1])
            event = replace(event, stage=part.stage)
        return replace(event, job_id=self.job_id, whole=self._whole)

    def _count(self, timings: Timings) -> None:
        """Add up the work; when the first sound is out, only who has a clock can tell."""
        first = self._timings == Timings()
        self._timings = Timings(
            semantic_s=self._timings.semantic_s + timings.semantic_s,
            coarse_s=self._timings.coarse_s + timings.coarse_s,
            fine_s=self._timings.fine_s + timings.fine_s,
            codec_s=self._timings.codec_s + timings.codec_s,
            queued_s=timings.queued_s if first else self._timings.queued_s,
        )

    def _choose(self, part: Part) -> None:
        """Of a part's drafts the best, as soon as all are there."""
        drafts = [take for take in part.takes if take is not None and take.done is not None]
        if len(drafts) < len(part.takes):
            return

        def value(draft: Take) -> float:
            assert draft.done is not None
            return score(part.utterance.text, draft.done.renditions[0])

        part.drafted = max(drafts, key=value)

    def _is_whole(self, part: Part, take: Take) -> None:
        assert take.done is not None
        if part.drafted is None:
            self._shares.learn(take.done.timings)
        else:
            # How its semantic tokens came about, only the draft can tell.
            assert part.drafted.done is not None
            draft, done = part.drafted.done, take.done
            made = replace(draft.renditions[0], audio_s=done.audio_s)
            notes = tuple(dict.fromkeys((*draft.notes, *done.notes)))
            take.done = replace(done, notes=notes, renditions=(made,))
        part.best = take
        self._voices.setdefault(part.utterance.speaker, take.done.history)

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
            audio_s=self._spoken.given_s,
            seed=self._spoken.renditions[0].seed if alone else self._manner.sampling.seed,
            timings=self._timings,
            history=kept.history,
            notes=tuple(self._spoken.notes),
            renditions=tuple(self._spoken.renditions),
        )
