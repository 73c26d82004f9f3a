"""One job's way through the stages: what it has, what it may do next, what it leaves behind.

Bookkeeping on the host; the pipeline does the work. Holds no cache and no weights.
"""

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from synth.coarse import CoarseInput, total_steps, unflatten
from synth.codec_stream import Runs
from synth.fine import FineJob
from synth.model import Model
from synth.pace import longest_s, typical_s
from synth.protocol import (
    Audio,
    Done,
    HistoryPrompt,
    Rendition,
    Stage,
    Streaming,
    Submit,
    Timings,
)
from synth.request_checks import check_history, check_sampling, check_semantic
from synth.seeds import derived_seed
from synth.semantic import max_tokens
from synth.sound import Sound
from synth.vocab import ModelConfig

_FILLED = 0.85  # of a window: what takes longer at an even pace may not end within it
_CUT = "The model did not find the end of the text: the clip was cut after {:.1f} s."

_STAGES = tuple(Stage)


class Job:
    """A job from admission into `slot` to its end."""

    def __init__(
        self,
        submit: Submit,
        history: HistoryPrompt | None,
        model: Model,
        slot: int,
        now: float,
        *,
        tries: int = 0,
        runs: Runs | None = None,
    ) -> None:
        """tries: how often it was begun before, in vain; runs: of the codec, recorded.

        Raises InvalidRequest when text, settings or history cannot work.
        """
        self._submit, self._model, self._config = submit, model, model.config
        self._tries = tries
        check_sampling(submit.sampling)
        check_history(history, model.config)
        encoded = model.tokenizer.encode(submit.text)
        self.id = submit.job_id
        self.user = submit.user
        self.utterance = submit.utterance
        seed = derived_seed(submit.sampling.seed, tries)
        self.sampling = replace(submit.sampling, seed=seed)
        self.history = history
        self.slot = slot
        self.text_tokens = encoded.text_tokens
        self.notes = encoded.notes
        self.stage: Stage | None = Stage.SEMANTIC  # the first unfinished one; None: at its end
        self.semantic: list[int] = []
        given = submit.semantic_tokens
        if given is not None:
            check_semantic(given, model.config)
            self.semantic_limit, self._past_it_is_astray = len(given), False
        else:
            self.semantic_limit, self._past_it_is_astray = longest_semantic(submit, model.config)
        self.semantic_started = False
        self.ended = True  # False: no end came, and it was cut at the limit
        self._log_probs: list[float] = []  # of a draft's semantic tokens
        self.coarse = CoarseInput(history, model.config)
        self.coarse_started = False
        self.window_ends: int | None = None  # of the coarse window in the cache
        self.window_seen = -1  # the step of the last one that was looked for there
        self.fine = FineJob(
            history,
            self.sampling,
            submit.utterance,
            model.config,
            model.device,
            most_frames=total_steps(self.semantic_limit, model.config)
            // model.config.coarse.codebooks,
            streaming=submit.streaming,
        )
        self._hurries = submit.streaming is Streaming.LOW_LATENCY
        self._runs = runs
        self.sound = Sound(model.codec, submit.job_id, submit.utterance, runs)
        self.ttfa_s = 0.0
        self.spent = dict.fromkeys(Stage, 0.0)
        self.deadline = now + (math.inf if submit.deadline_s is None else submit.deadline_s)
        self.began = now
        if given is not None:
            self.add_semantic(np.asarray(given, dtype=np.int64), np.zeros(len(given), dtype=bool))

    def can_run(self, stage: Stage) -> bool:
        """Whether there is work to do at `stage` now; there may be at several.

        With low latency a job takes what is nearest to its sound, and thinks ahead when that waits.
        """
        if not self._has_work(stage):
            return False
        nearer = _STAGES[_STAGES.index(stage) + 1 :] if self._hurries else ()
        return not any(self._has_work(other) for other in nearer)

    def _has_work(self, stage: Stage) -> bool:
        if stage is Stage.SEMANTIC:
            return not self.coarse.complete
        if stage is Stage.COARSE:
            if self._submit.draft or self._may_be_in_vain:
                return False
            generated = self.coarse.generated
            return self.window_ends is not None or self.coarse.window_exists(generated)
        if stage is Stage.FINE:
            return self.fine.ready
        return self._next_frames > 0

    @property
    def _may_be_in_vain(self) -> bool:
        """Whether the job may yet be begun anew, and gains little by coarse codes before it shows:
        exact sound needs nearly all of them, and they are most of the work.
        """
        may_begin_anew = not self.coarse.complete and self._tries < self._submit.rerolls
        return may_begin_anew and not self._hurries

    @property
    def _next_frames(self) -> int:
        return self.sound.next_frames(self.fine.final, complete=self.fine.ended)

    def add_semantic(
        self,
        tokens: npt.NDArray[np.int64],
        ended: npt.NDArray[np.bool_],
        log_probs: npt.NDArray[np.floating] | None = None,
    ) -> None:
        """Take k more semantic tokens, and how likely they were; those from the first end on are
        dropped.
        """
        ends = np.flatnonzero(ended)
        kept = tokens[: ends[0]] if len(ends) else tokens
        self.semantic.extend(kept.tolist())
        self.coarse.extend(kept.tolist())
        if log_probs is not None:
            self._log_probs.extend(log_probs[: len(kept)].tolist())
        if len(ends) or len(self.semantic) >= self.semantic_limit:
            self.ended = bool(len(ends)) or not self._past_it_is_astray
            self.coarse.complete = True
            self.stage = Stage.COARSE if self.coarse.total else None
            self._end_coarse()

    @property
    def is_astray(self) -> bool:
        """Its end did not come in the time the text can take, or at once; and it may be begun anew,
        for nobody has heard of it yet.
        """
        in_vain = self.stage is None or not self.ended
        return in_vain and self._tries < self._submit.rerolls and not self.sound.frames

    @property
    def is_draft(self) -> bool:
        """Only its semantic tokens are asked for, and how likely they are."""
        return self._submit.draft

    @property
    def is_drafted(self) -> bool:
        """It is a draft, and all its semantic tokens are there."""
        return self._submit.draft and self.stage is Stage.COARSE

    def anew(self) -> "Job":
        """The same with another seed, as if it had not been begun; only the time it took counts."""
        args = (self._submit, self.history, self._model, self.slot, self.began)
        job = Job(*args, tries=self._tries + 1, runs=self._runs)
        job.spent, job.deadline, job.began = self.spent, self.deadline, self.began
        return job

    def add_coarse(self, ids: npt.NDArray[np.int64]) -> None:
        """Take k more coarse ids, a multiple of the codebooks."""
        self.coarse.append(ids.tolist())
        self.fine.extend(unflatten(ids, self._config))
        if self.coarse.generated == self.window_ends:
            self.window_ends = None
        self._end_coarse()

    def _end_coarse(self) -> None:
        if self.coarse.complete and 0 < self.coarse.total <= self.coarse.generated:
            self.fine.complete = True
            self.after_fine()

    def after_fine(self) -> None:
        """A forward pass of the fine stage is done, or there are no more coarse codes."""
        if self.fine.complete:
            self.stage = Stage.CODEC if self.fine.ended else Stage.FINE

    def decode(self) -> Audio | None:
        """Decode the next frames: their event, None while the codec needs more of them."""
        first, end = self.sound.frames, self.sound.frames + self._next_frames
        last = self.fine.ended and end == self.fine.frames
        audio = self.sound.decode(self.fine.codes(first, end), last=last)
        if last:
            self.stage = None
        return audio

    def fraction(self, stage: Stage) -> float:
        """How much of `stage` is done, on the upper bound while the length is unknown."""
        if stage is Stage.SEMANTIC:
            return 1.0 if self.coarse.complete else len(self.semantic) / self.semantic_limit
        if stage is Stage.COARSE:
            bound = self.coarse.total
            if not self.coarse.complete:
                bound = total_steps(self.semantic_limit, self._config)
            return self.coarse.generated / max(1, bound)
        if stage is Stage.FINE:
            return self.fine.fraction
        return self.sound.frames / self.fine.frames if self.fine.complete else 0.0

    def done(self) -> Done:
        """The job's last event."""
        fine_codes = self.fine.codes()
        codec = self._config.codec
        scores = self._log_probs
        audio_s = made_s = self.sound.samples / codec.sample_rate
        if self._submit.draft:
            made_s = self.coarse.total // self._config.coarse.codebooks / codec.frame_rate
        return Done(
            job_id=self.id,
            audio_s=audio_s,
            seed=self.sampling.seed,
            timings=Timings(
                semantic_s=self.spent[Stage.SEMANTIC],
                coarse_s=self.spent[Stage.COARSE],
                fine_s=self.spent[Stage.FINE],
                codec_s=self.spent[Stage.CODEC],
                ttfa_s=self.ttfa_s,
            ),
            history=HistoryPrompt(
                semantic=np.asarray(self.semantic, dtype=np.int64),
                coarse_codes=fine_codes[: self._config.coarse.codebooks],
                fine_codes=fine_codes,
                family=self._config.family,
            ),
            notes=self.notes if self.ended else (*self.notes, _CUT.format(made_s)),
            renditions=(
                Rendition(
                    text=self._submit.text,
                    seed=self.sampling.seed,
                    audio_s=made_s,
                    rerolls=self._tries,
                    ended=self.ended,
                    log_prob=math.fsum(scores) / len(scores) if scores else None,
                ),
            ),
        )


def longest_semantic(submit: Submit, config: ModelConfig) -> tuple[int, bool]:
    """How many semantic tokens an utterance may have, and whether having as many means that the
    model has lost its way: the text cannot take so long.
    """
    limit = max_tokens(submit.sampling, config)
    if not (submit.rerolls and submit.sampling.early_stop):
        return limit, False
    longest = longest_s(submit.text)
    if longest is None:
        return limit, False
    plausible = math.ceil(longest * config.semantic.rate_hz)
    if plausible < limit:
        return plausible, True
    # The window's end: a text that fills it may just have been said slowly.
    fits = typical_s(submit.text) < _FILLED * config.max_utterance_s
    return limit, fits and limit == config.semantic.max_steps
