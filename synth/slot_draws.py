"""How each slot of a stage samples, as tensors on the device, and the drawing of a step's tokens.

Temperatures, filters and noise keys are a slot's own. What is the same for all rows of a run, and
may therefore be left out, is known on the host before the run. Knows nothing of transformers.

Shape letters: B slots, R rows of a run, V outputs of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from synth.sampling import draw, is_end, keep_top_k, keep_top_p, noise_of


@dataclass(frozen=True)
class Draw:
    """How one slot samples. top_k 0 and top_p, min_eos_p inf switch the rule off."""

    key: int  # noise_key(seed, utterance, stage)
    temperature: float
    top_k: int = 0
    top_p: float = float("inf")
    min_eos_p: float = float("inf")
    may_end: bool = False
    scored: bool = False  # whether it is told how likely each token was


@dataclass(frozen=True)
class Rules:
    """What sampling does for the rows of a run, the same for every row.

    Steps are recorded for each of these, so they hold what saves work, and no more.
    """

    filter_p: bool
    filter_k: bool
    all_greedy: bool
    some_greedy: bool
    scored: bool

    @property
    def plain(self) -> bool:
        """Whether rows are drawn by temperature and noise, and nothing else is asked."""
        return not (self.filter_p or self.filter_k or self.some_greedy or self.scored)


@dataclass(frozen=True)
class Drawn:
    """Head rows (R,), whether those end the sequence (R,), and where rows are scored the natural
    log-probability of each among all outputs of the head, before temperature and filters (R,).
    """

    row: Tensor
    ended: Tensor
    log_prob: Tensor | None = None


@dataclass(frozen=True)
class SlotState:
    """What drawing a token reads of each slot, and what it changes: all (B,)."""

    temperature: Tensor  # at least single precision, as min_eos_p
    may_end: Tensor  # bool
    min_eos_p: Tensor
    advance: Tensor  # bool; the others' token, position and step stay as they are
    token: Tensor  # int64, as are the next two; changed
    position: Tensor
    step: Tensor


class SlotDraws:
    """B slots. With `end_row`, that row of the head ends the sequence."""

    def __init__(
        self,
        slots: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        end_row: int | None,
        compiled: bool = False,
    ) -> None:
        """dtype: what logits are sampled in. compiled: see `noise_of`."""
        self.end_row = end_row
        self._exponential = noise_of(dtype, compiled=compiled)
        self._draws = [Draw(0, 0.0)] * slots

        def state(dtype: torch.dtype, fill: float = 0) -> Tensor:
            return torch.full((slots,), fill, dtype=dtype, device=device)

        self._key = state(torch.int64)
        self.temperature = state(dtype)
        self._top_k = state(torch.int64, 1)
        self._top_p = state(torch.float32, torch.inf)
        self.min_eos_p = state(dtype, torch.inf)
        self.may_end = state(torch.bool)

    def open(self, slot: int, how: Draw, vocab: int) -> None:
        """From now on the slot samples as `how`, of `vocab` outputs."""
        self._draws[slot] = how
        self._key[slot] = how.key
        self.temperature[slot] = how.temperature
        self._top_k[slot] = how.top_k or vocab
        self._top_p[slot] = how.top_p
        self.min_eos_p[slot] = how.min_eos_p
        self.may_end[slot] = how.may_end

    def rules(self, slots: Sequence[int]) -> Rules:
        """What the rows of these slots need; what is drawn for others may be wrong."""
        draws = [self._draws[slot] for slot in slots]
        return Rules(
            filter_p=any(how.top_p < 1 for how in draws),
            filter_k=any(how.top_k for how in draws),
            all_greedy=all(how.temperature <= 0 for how in draws),
            some_greedy=any(how.temperature <= 0 for how in draws),
            scored=any(how.scored for how in draws),
        )

    def noise(self, index: slice | Tensor, step: Tensor, vocab: int) -> Tensor:
        """What decides the draws of the slots at `index`: (N, vocab), N rows or a multiple of that.

        step (N,): how many tokens each row has sampled, then the rows' next steps.
        """
        key = self._key[index]
        return self._exponential(key.repeat(len(step) // len(key)), step, vocab)

    def sample(
        self, logits: Tensor, index: slice | Tensor, noise: Tensor | None, rules: Rules
    ) -> Drawn:
        """One token a row. logits (R, V), overwritten, of the slots at `index`.

        noise: (R, V) of `noise`; None where all rows are greedy.
        """
        unfiltered = logits.log_softmax(-1) if rules.scored else None
        may_end = self.may_end[index]
        if self.end_row is not None:
            logits[:, self.end_row].masked_fill_(~may_end, -torch.inf)
        # Order matters: top_p sees the whole distribution, top_k what is left of it.
        if rules.filter_p:
            logits = keep_top_p(logits, self._top_p[index])
        if rules.filter_k:
            logits = keep_top_k(logits, self._top_k[index])
        probabilities: Tensor | None = None
        if noise is None:
            row = logits.argmax(-1)
        else:
            temperature = self.temperature[index]
            row, probabilities = draw(logits, temperature, noise, greedy=rules.some_greedy)
        log_prob = None if unfiltered is None else unfiltered.gather(1, row[:, None])[:, 0]
        if self.end_row is None:
            return Drawn(row, torch.zeros_like(may_end), log_prob)
        ended = is_end(row, probabilities, self.end_row, self.min_eos_p[index])
        return Drawn(row, may_end & ended, log_prob)
