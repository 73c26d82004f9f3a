"""How each slot of a stage samples, as tensors on the device, and the drawing of a step's tokens.

Temperatures, filters and noise keys are a slot's own. What is the same for all rows of a run, and
may therefore be left out, is known on the host before the run. Knows nothing of transformers.

Shape letters: B slots, R rows of a run, V outputs of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from synth.sampling import draw, exponential, fold, is_end, keep_top_k, keep_top_p


@dataclass(frozen=True)
class Draw:
    """How one slot samples. top_k 0 and top_p, min_eos_p inf switch the rule off."""

    key: int  # noise_key(seed, utterance, stage)
    temperature: float
    top_k: int = 0
    top_p: float = float("inf")
    min_eos_p: float = float("inf")
    may_end: bool = False


@dataclass(frozen=True)
class Rules:
    """What sampling does for the rows of a run, the same for every row."""

    filter_p: bool
    filter_k: bool
    all_greedy: bool
    all_may_end: bool


class SlotDraws:
    """B slots. With `end_row`, that row of the head ends the sequence."""

    def __init__(
        self, slots: int, *, dtype: torch.dtype, device: torch.device, end_row: int | None
    ) -> None:
        """dtype: what logits are sampled in."""
        self._end_row = end_row
        self._draws = [Draw(0, 0.0)] * slots

        def state(dtype: torch.dtype, fill: float = 0) -> Tensor:
            return torch.full((slots,), fill, dtype=dtype, device=device)

        self._key = state(torch.int64)
        self._temperature = state(dtype)
        self._top_k = state(torch.int64, 1)
        self._top_p = state(torch.float32, torch.inf)
        self._min_eos_p = state(dtype, torch.inf)
        self._may_end = state(torch.bool)

    def open(self, slot: int, how: Draw, vocab: int) -> None:
        """From now on the slot samples as `how`, of `vocab` outputs."""
        self._draws[slot] = how
        self._key[slot] = how.key
        self._temperature[slot] = how.temperature
        self._top_k[slot] = how.top_k or vocab
        self._top_p[slot] = how.top_p
        self._min_eos_p[slot] = how.min_eos_p
        self._may_end[slot] = how.may_end

    def rules(self, slots: Sequence[int]) -> Rules:
        draws = [self._draws[slot] for slot in slots]
        return Rules(
            filter_p=any(how.top_p < 1 for how in draws),
            filter_k=any(how.top_k for how in draws),
            all_greedy=all(how.temperature <= 0 for how in draws),
            all_may_end=all(how.may_end for how in draws),
        )

    def sample(
        self, logits: Tensor, index: slice | Tensor, step: Tensor, rules: Rules
    ) -> tuple[Tensor, Tensor]:
        """logits (R, V) of the slots at `index` -> head rows (R,), whether those end it (R,).

        step (R,): how many tokens each has sampled; addresses the noise.
        """
        may_end = self._may_end[index]
        if self._end_row is not None and not rules.all_may_end:
            logits[:, self._end_row].masked_fill_(~may_end, -torch.inf)
        # Order matters: top_p sees the whole distribution, top_k what is left of it.
        if rules.filter_p:
            logits = keep_top_p(logits, self._top_p[index])
        if rules.filter_k:
            logits = keep_top_k(logits, self._top_k[index])
        probabilities: Tensor | None = None
        if rules.all_greedy:
            row = logits.argmax(-1)
        else:
            key = fold(self._key[index], step)
            noise = exponential(key, logits.shape[-1], logits.dtype)
            row, probabilities = draw(logits, self._temperature[index], noise)
        if self._end_row is None:
            return row, torch.zeros_like(may_end)
        ended = is_end(row, probabilities, self._end_row, self._min_eos_p[index])
        return row, may_end & ended
