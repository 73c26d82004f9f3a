"""Semantic tokens to the first codebooks, in windows that slide over a long clip.

`CoarseInput` is bookkeeping without a tensor: which ids a window sees and when it can start.
`CoarseStage` runs the transformer over slots, and keeps what its cache already holds of a window.

Source: suno-ai/bark@f4f32d4 bark/generation.py:531 (generate_coarse). Differs: static KV cache;
a window that only extends the last one is not computed again; histories are trimmed, not refused.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from synth.protocol import HistoryPrompt, Sampling
from synth.sampling import NoiseStage, noise_key
from synth.slot_draws import Draw
from synth.stepper import Stepper
from synth.transformer import Transformer
from synth.vocab import ModelConfig

Ids = npt.NDArray[np.int64]


def total_steps(semantic_tokens: int, config: ModelConfig) -> int:
    """Coarse ids for a run of semantic tokens; a multiple of the codebooks. 300 -> 900."""
    books = config.coarse.codebooks
    return int(round(np.floor(semantic_tokens * config.ratio / books) * books))


def flatten(coarse_codes: npt.NDArray[np.integer], config: ModelConfig) -> Ids:
    """(books, F) codes -> (books * F,) ids, frame by frame, offsets added."""
    books = np.arange(config.coarse.codebooks)[:, None] * config.codec.codebook_size
    flat = (np.asarray(coarse_codes, dtype=np.int64) + books).ravel(order="F")
    return flat + config.semantic.vocab


def unflatten(ids: Ids, config: ModelConfig) -> Ids:
    """The inverse of `flatten`; ids must begin with the first book."""
    books = config.coarse.codebooks
    codes = ids.reshape(-1, books).T - config.semantic.vocab
    return codes - np.arange(books)[:, None] * config.codec.codebook_size


def trim_history(history: HistoryPrompt | None, config: ModelConfig) -> tuple[Ids, Ids]:
    """The ends of a history that belong together: semantic tokens and flat coarse ids."""
    nothing = np.zeros(0, dtype=np.int64)
    if history is None:
        return nothing, nothing
    semantic = np.asarray(history.semantic, dtype=np.int64)
    flat = flatten(history.coarse_codes, config)
    n_semantic = min(
        config.max_semantic_history,
        len(semantic) - len(semantic) % 2,
        int(len(flat) // config.ratio),
    )
    n_coarse = int(round(n_semantic * config.ratio))
    if n_semantic <= 0:
        return nothing, nothing
    # The last two ids are dropped: the checkpoints were used so from the first day, and a clip
    # continues from a slightly different place without it.
    return semantic[-n_semantic:], flat[-n_coarse:][:-2]


class CoarseInput:
    """One job's ids: history and what has been generated so far, and the windows over them."""

    def __init__(self, history: HistoryPrompt | None, config: ModelConfig) -> None:
        self._config = config
        semantic, coarse = trim_history(history, config)
        self._base = len(semantic)
        self._history = len(coarse)
        self._semantic = list(semantic)
        self._coarse = list(coarse)
        self.complete = False  # all semantic tokens are here

    def extend(self, semantic_tokens: Sequence[int]) -> None:
        """More semantic tokens exist."""
        self._semantic.extend(semantic_tokens)

    def append(self, coarse_ids: Sequence[int]) -> None:
        """More coarse ids, offsets included, were generated."""
        self._coarse.extend(coarse_ids)

    @property
    def generated(self) -> int:
        """Coarse ids generated so far, which is also the next step's number."""
        return len(self._coarse) - self._history

    @property
    def total(self) -> int:
        """Coarse ids the semantic tokens so far call for."""
        return total_steps(len(self._semantic) - self._base, self._config)

    @property
    def codes(self) -> Ids:
        """(books, F) int64: the generated codes."""
        return unflatten(np.asarray(self._coarse[self._history :], dtype=np.int64), self._config)

    def _first_semantic(self, step: int) -> int:
        now = self._base + int(round(step / self._config.ratio))
        return max(0, now - self._config.max_semantic_history)

    def window_end(self, step: int) -> int:
        """The step at which the window that begins at `step` ends."""
        end = step + self._config.coarse.window
        return min(end, self.total) if self.complete else end

    def window_exists(self, step: int) -> bool:
        """Whether all that the window at `step` looks ahead to has been generated."""
        if self.complete:
            return step < self.total
        seen = self._first_semantic(step) + self._config.coarse.semantic_block
        return len(self._semantic) >= seen and self.total >= step + self._config.coarse.window

    def window(self) -> Ids:
        """The next window's input: [semantic block | infer | recent coarse ids]."""
        numbers = self._config.coarse
        block = np.full(numbers.semantic_block + 1, numbers.semantic_pad, dtype=np.int64)
        first = self._first_semantic(self.generated)
        seen = self._semantic[first : first + numbers.semantic_block]
        block[: len(seen)] = seen
        block[-1] = numbers.infer
        return np.concatenate([block, np.asarray(self._coarse[-numbers.history :], np.int64)])


class CoarseStage:
    """The coarse transformer and its slots."""

    def __init__(self, transformer: Transformer, config: ModelConfig, *, slots: int) -> None:
        self._config = config
        size = config.codec.codebook_size
        offsets = [config.semantic.vocab + book * size for book in range(config.coarse.codebooks)]
        heads = [transformer.heads[0][offset : offset + size] for offset in offsets]
        self._stepper = Stepper(transformer, heads, offsets, slots=slots)
        self._offsets = np.asarray(offsets, dtype=np.int64)
        self._fed: list[Ids] = [np.zeros(0, dtype=np.int64)] * slots  # ids behind the live cache
        self._pending = np.zeros(slots, dtype=np.int64)  # the host's mirror of what is fed next
        self.prefilled = 0  # positions computed by prefills so far, for tests and the benchmark

    def record_steps(self) -> None:
        """Replay decode steps and prefills as CUDA graphs."""
        self._stepper.record_steps()

    def warm_up(self) -> None:
        """Record plain steps of every number of slots, while nothing is live."""
        self._stepper.warm_up()

    def open(self, slot: int, sampling: Sampling, utterance: int) -> None:
        """Give the slot to a new job."""
        temperature = sampling.waveform_temperature
        if temperature is None:
            temperature = self._config.sampling.waveform_temperature
        how = Draw(
            key=noise_key(sampling.seed, utterance, NoiseStage.COARSE),
            temperature=temperature,
            top_k=sampling.top_k or 0,
            top_p=float("inf") if sampling.top_p is None else sampling.top_p,
        )
        self._stepper.open(slot, how)
        self._fed[slot] = np.zeros(0, dtype=np.int64)

    def start_window(self, slot: int, window: Ids) -> None:
        """Bring the slot's cache to a window's input, computing only what is not there yet.

        A cached position depends on the ids up to it and on nothing else, so the common
        beginning of the old and the new input holds; a window that only extends the last one
        costs nothing.
        """
        fed = self._fed[slot]
        overlap = min(len(fed), len(window) - 1)
        differs = np.flatnonzero(fed[:overlap] != window[:overlap])
        keep = int(differs[0]) if len(differs) else overlap
        with torch.inference_mode():
            x = self._stepper.embed(window[keep:-1])
            self._stepper.prefill(slot, x, int(window[-1]), start=keep)
        self._fed[slot], self._pending[slot] = window[:-1], window[-1]
        self.prefilled += len(window) - 1 - keep

    def is_prefilled(self, slot: int, window: Ids) -> bool:
        """Whether `start_window` would have nothing to compute."""
        return np.array_equal(self._fed[slot], window[:-1])

    def run(self, k: int, slots: Sequence[int]) -> Ids:
        """k steps, a multiple of the codebooks. Returns (k, R) ids, offsets included."""
        rows = self._stepper.run(k, slots).tokens
        ids = rows + np.resize(self._offsets, k)[:, None]
        for column, slot in enumerate(slots):
            fed = [self._fed[slot], self._pending[slot : slot + 1], ids[:-1, column]]
            self._fed[slot] = np.concatenate(fed)
            self._pending[slot] = ids[-1, column]
        return ids
