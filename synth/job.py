"""One job's way through the stages: what it has, what it may do next, what it leaves behind.

Bookkeeping on the host; the pipeline does the work. Holds no cache and no weights.
"""

import math

import numpy as np
import numpy.typing as npt

from synth.coarse import CoarseInput, total_steps, unflatten
from synth.errors import InvalidRequest
from synth.fine import FineJob
from synth.model import Model
from synth.protocol import Audio, Done, HistoryPrompt, Sampling, Stage, Submit, Timings
from synth.semantic import max_tokens
from synth.sound import Sound, chunk_frames
from synth.vocab import ModelConfig


class Job:
    """A job from admission into `slot` to its end."""

    def __init__(
        self,
        submit: Submit,
        history: HistoryPrompt | None,
        model: Model,
        slot: int,
        now: float,
    ) -> None:
        """Raises InvalidRequest when text, settings or history cannot work."""
        self._config = model.config
        check_sampling(submit.sampling)
        check_history(history, model.config)
        encoded = model.tokenizer.encode(submit.text)
        self.id = submit.job_id
        self.utterance = submit.utterance
        self.sampling = submit.sampling
        self.history = history
        self.slot = slot
        self.text_tokens = encoded.text_tokens
        self.notes = (encoded.note,) if encoded.note else ()
        self.stage: Stage | None = Stage.SEMANTIC  # the first unfinished one; None: at its end
        self.semantic: list[int] = []
        self.semantic_limit = max_tokens(submit.sampling, model.config)
        self.semantic_started = False
        self.coarse = CoarseInput(history, model.config)
        self.coarse_started = False
        self.window_ends: int | None = None  # of the coarse window in the cache
        self.fine = FineJob(
            history,
            submit.sampling,
            submit.utterance,
            model.config,
            model.device,
            most_frames=total_steps(self.semantic_limit, model.config)
            // model.config.coarse.codebooks,
            streaming=submit.streaming,
        )
        self.sound = Sound(model.codec, submit.job_id, submit.utterance)
        self.ttfa_s = 0.0
        self.spent = dict.fromkeys(Stage, 0.0)
        self.served = now
        self.deadline = now + (math.inf if submit.deadline_s is None else submit.deadline_s)
        self.began = now

    def can_run(self, stage: Stage) -> bool:
        """Whether there is work to do at `stage` now.

        This is where a coarse window could start as soon as `CoarseInput.window_exists`; a clip
        that is only wanted whole gains nothing by it.
        """
        if stage is Stage.FINE:
            return self.fine.ready
        if stage is Stage.CODEC:
            return self._next_frames > 0
        return self.stage is stage

    @property
    def _next_frames(self) -> int:
        return chunk_frames(self.sound.frames, self.fine.final, complete=self.fine.ended)

    def add_semantic(self, tokens: npt.NDArray[np.int64], ended: npt.NDArray[np.bool_]) -> None:
        """Take k more semantic tokens; those from the first end on are dropped."""
        ends = np.flatnonzero(ended)
        kept = tokens[: ends[0]] if len(ends) else tokens
        self.semantic.extend(kept.tolist())
        self.coarse.extend(kept.tolist())
        if len(ends) or len(self.semantic) >= self.semantic_limit:
            self.coarse.complete = True
            self.stage = Stage.COARSE if self.coarse.total else None

    def add_coarse(self, ids: npt.NDArray[np.int64]) -> None:
        """Take k more coarse ids, a multiple of the codebooks."""
        self.coarse.append(ids.tolist())
        self.fine.extend(unflatten(ids, self._config))
        if self.coarse.generated == self.window_ends:
            self.window_ends = None
        if self.coarse.complete and self.coarse.generated >= self.coarse.total:
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
        return Done(
            job_id=self.id,
            audio_s=self.sound.samples / self._config.codec.sample_rate,
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
            notes=self.notes,
        )


def check_sampling(sampling: Sampling) -> None:
    """Raise InvalidRequest that names the setting, its value and what is allowed."""
    temperatures = {
        "text temperature": sampling.text_temperature,
        "waveform temperature": sampling.waveform_temperature,
        "fine temperature": sampling.fine_temperature,
    }
    for name, value in temperatures.items():
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise InvalidRequest(f"The {name} is {value}; it must be 0 (greedy) or more.")
    if sampling.top_k is not None and sampling.top_k < 1:
        raise InvalidRequest(f"top_k is {sampling.top_k}; it must be 1 or more.")
    if sampling.top_p is not None and not 0 <= sampling.top_p <= 1:
        raise InvalidRequest(f"top_p is {sampling.top_p}; it must be between 0 and 1.")
    if sampling.min_eos_p is not None and not sampling.min_eos_p >= 0:
        raise InvalidRequest(f"min_eos_p is {sampling.min_eos_p}; it must be 0 or more.")
    if sampling.max_seconds is not None and not sampling.max_seconds > 0:
        raise InvalidRequest(f"max_seconds is {sampling.max_seconds}; it must be more than 0.")


def check_history(history: HistoryPrompt | None, config: ModelConfig) -> None:
    """Raise InvalidRequest when a history would index outside the model's tables."""
    if history is None:
        return
    if history.family != config.family:
        raise InvalidRequest(
            "The voice was made with another kind of model; choose one of this model's voices."
        )
    size = config.codec.codebook_size
    arrays = {
        "semantic": (np.atleast_2d(history.semantic), 1, config.semantic.vocab),
        "coarse": (np.atleast_2d(history.coarse_codes), config.coarse.codebooks, size),
        "fine": (np.atleast_2d(history.fine_codes), config.fine.codebooks, size),
    }
    for name, (array, rows, end) in arrays.items():
        if array.ndim != 2 or array.shape[0] != rows:
            raise InvalidRequest(f"The voice's {name} part has the wrong shape {array.shape}.")
        if array.size and not (array.min() >= 0 and array.max() < end):
            raise InvalidRequest(f"The voice's {name} part has values outside 0 to {end - 1}.")
