"""Slots of one autoregressive stage: prefill into a slot, then batched decode steps.

All state is [B slots] and lives on the device: the pending token, its position, the step counter,
how to sample (`slot_draws`), an exec mask (who advances) and a reset mask (who starts afresh).
`run(k)` calls the same body k times without looking at a result; a recorded CUDA graph takes the
body's place there, and a prefill's. The host learns k steps' tokens at once and drops those past an
end. Knows nothing of jobs.

Shape letters: B slots, R rows of this run, T positions, C width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from synth.fused_decode import FusedDecode
from synth.fused_forward import FusedForward
from synth.gpu_decode import GpuDecode
from synth.helpers import alone
from synth.kv_cache import DecodeEach, DecodeMasked, KVCache, Prefill, span_for
from synth.prefill_graphs import PrefillGraphs
from synth.slot_draws import Draw, Rules, SlotDraws, SlotState
from synth.step_graphs import Record, StepGraphs
from synth.transformer import Attend, Transformer

# How many slots, the first ones, a masked step works on: the least of these that holds all active.
_WIDTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_NOISE_STEPS = 16  # recorded steps whose noise is made at once


@dataclass(frozen=True)
class Chunk:
    """What `run` made: tokens (k, R) int64 in head order, ended (k, R) bool, R as asked for; and
    where a slot is scored how likely its tokens were, natural logarithms (k, R).
    """

    tokens: npt.NDArray[np.int64]
    ended: npt.NDArray[np.bool_]
    log_probs: npt.NDArray[np.floating] | None = None


class Stepper:
    """One transformer, B slots.

    `heads` are output projections used in turn, step by step (coarse: one a codebook); head h's
    row r stands for token `offsets[h] + r`, which is what is fed back. With `end_row`, that row
    of the head ends the sequence. `masked` makes every step the same work for its slots, whoever
    is active, as a recorded graph needs it: the default on CUDA; elsewhere idle slots cost nothing.
    `graphs` stand in for the body of masked steps, `prefills` for prefills; `record_steps()` makes
    them for CUDA.
    """

    def __init__(
        self,
        transformer: Transformer,
        heads: Sequence[Tensor],
        offsets: Sequence[int],
        *,
        slots: int,
        end_row: int | None = None,
        masked: bool | None = None,
    ) -> None:
        self._transformer = transformer
        precision = transformer.precision
        self._heads = tuple(precision.linear(head) for head in heads)
        self._offsets = tuple(offsets)
        device, dtype = transformer.wpe.device, precision.dtype
        self._device = device
        self._masked = device.type == "cuda" if masked is None else masked
        # Sampling happens in at least single precision.
        self._float = torch.float64 if dtype == torch.float64 else torch.float32
        self.slots = slots
        self.cache = KVCache(transformer.shape, slots, device=device, dtype=precision.cache_dtype)
        self._fused: FusedDecode | None = None
        self._forward: FusedForward | None = None
        if not self._masked:
            self._fused = FusedDecode.of(transformer, self._heads, self.cache)
            self._forward = FusedForward.of(transformer, self.cache)
        self.live = [0] * slots  # positions in the cache, the host's mirror of `position`
        self._draws = SlotDraws(
            slots,
            dtype=self._float,
            device=device,
            end_row=end_row,
            compiled=self._fused is not None,
        )

        def state(dtype: torch.dtype, fill: float = 0) -> Tensor:
            return torch.full((slots,), fill, dtype=dtype, device=device)

        self.token = state(torch.int64)  # sampled or given, not yet fed
        self.position = state(torch.int64)  # where `token` goes
        self.step = state(torch.int64)  # tokens sampled since the reset; addresses the noise
        self.exec_mask = state(torch.bool)
        self.reset_mask = state(torch.bool)
        draws = self._draws
        self._state = SlotState(
            temperature=draws.temperature,
            may_end=draws.may_end,
            min_eos_p=draws.min_eos_p,
            advance=self.exec_mask,
            token=self.token,
            position=self.position,
            step=self.step,
        )
        self._executing: list[int] = []  # the host's mirror of `exec_mask`
        self.graphs: StepGraphs | None = None
        self.prefills: PrefillGraphs | None = None
        self._kernels: GpuDecode | None = None
        self._noise: Tensor | None = None  # (_NOISE_STEPS, B, V), of recorded steps
        self._noise_at = torch.zeros(1, dtype=torch.int64, device=device)  # the next one's

    def record_steps(self, record: Record | None = None) -> None:
        """From now on, record masked steps and prefills and replay them. record: None for CUDA
        graphs.
        """
        assert self._masked
        state = (self.token, self.position, self.step, self._noise_at)
        self.graphs = StepGraphs(state, record)
        size = (_NOISE_STEPS, self.slots, self._heads[0].size_out)
        self._noise = torch.zeros(size, dtype=self._float, device=self._device)
        self.prefills = PrefillGraphs(self._transformer, self.cache, record)
        if self._device.type == "cuda":
            self._kernels = GpuDecode.of(self._transformer, self._heads, self.cache)

    def warm_up(self) -> None:
        """Make a plain step of each number of slots that there are graphs for, while nothing is
        live: what it compiles and records is no listener's wait. The most first, whose memory the
        others use.
        """
        for wide in reversed([wide for wide in _WIDTHS if wide < 2 * self.slots]):
            slot = min(wide, self.slots) - 1
            self.open(slot, Draw(key=0, temperature=1.0))
            self.run(len(self._heads), [slot])

    def open(self, slot: int, how: Draw) -> None:
        """Give the slot to a new sequence: counters at zero, nothing live, sampling as `how`."""
        self.reset_mask[slot] = True
        self._reset()
        self._draws.open(slot, how, self._heads[0].size_out)

    def _reset(self) -> None:
        for state in (self.token, self.position, self.step):
            state.masked_fill_(self.reset_mask, 0)
        for slot in self.reset_mask.nonzero().flatten().tolist():
            self.live[slot] = 0
        self.reset_mask.fill_(False)

    def embed(self, ids: npt.NDArray[np.int64]) -> Tensor:
        """Token embeddings without positions: (T,) -> (T, C)."""
        return self._embedded(torch.from_numpy(ids).to(self._device))

    def _embedded(self, token: Tensor) -> Tensor:
        return self._transformer.wtes[0][token].to(self._transformer.precision.dtype)

    def prefill(self, slot: int, x: Tensor, pending: int, *, start: int = 0) -> None:
        """Take in the prompt x (T, C), overwritten, at positions [start, start + T) of a slot.

        What the cache holds before `start` stays, what it held after is forgotten. `pending` is
        the prompt's last token: it is fed by the first decode step.
        """
        end = start + x.shape[0]
        if self.prefills is not None and self.prefills.fits(start, x.shape[0]):
            self.prefills(slot, start, x)
        elif x.shape[0]:
            self._all_at_once(slot, start, x)
        self.position[slot] = end
        self.token[slot] = pending
        self.live[slot] = end

    def _all_at_once(self, slot: int, start: int, x: Tensor) -> None:
        """x (T, C), without positions, overwritten."""
        x += self._transformer.wpe[start : start + x.shape[0]]
        if self._forward is not None:
            self._forward(x, slot, start, needed=len(x))
        else:
            self._transformer(x, Prefill(self.cache, slot, start, x.shape[0]))

    def run(self, k: int, slots: Sequence[int]) -> Chunk:
        """Decode k steps of the given slots together; the others stand still.

        All given slots must be at the same turn of the heads: their step counts, modulo the
        number of heads, agree, and k is a multiple of that number.
        """
        assert k % len(self._heads) == 0 and slots
        rows = self._rows(slots)
        if rows.active != self._executing:
            self.exec_mask.fill_(False)
            self.exec_mask[torch.tensor(slots, device=self._device)] = True
            self._executing = rows.active
        steps: list[tuple[Tensor, ...]] = []
        for step in range(k):
            if step % _NOISE_STEPS == 0:
                self._make_noise(rows)
            steps.append(self._step(rows, step % len(self._heads)))
            for slot in slots:
                self.live[slot] += 1
        # The one synchronization with the host.
        made = [torch.stack(each).cpu().numpy() for each in zip(*steps, strict=True)]
        if len(rows.slots) != len(slots):
            made = [each[:, list(slots)] for each in made]
        return Chunk(*made)

    def _rows(self, slots: Sequence[int]) -> "_Rows":
        taken = list(slots)
        if self._masked:
            wide = next((w for w in _WIDTHS if w > max(slots)), self.slots)
            taken = list(range(min(wide, self.slots)))
        first = taken == list(range(len(taken)))
        return _Rows(
            active=list(slots),
            slots=taken,
            index=slice(len(taken)) if first else torch.tensor(taken, device=self._device),
            rules=self._draws.rules(slots),
        )

    def _make_noise(self, rows: "_Rows") -> None:
        """That of the next steps, where they are recorded: a few dozen small kernels for all of
        them, in place of as many in each.
        """
        if self.graphs is not None and not rows.rules.all_greedy:
            self.graphs.step(("noise", len(rows.slots)), lambda: self._noise_body(rows))

    def _noise_body(self, rows: "_Rows") -> tuple[Tensor, ...]:
        assert self._noise is not None
        ahead, _, vocab = self._noise.shape
        later = torch.arange(ahead, device=self._device)
        step = (self.step[rows.index] + later[:, None]).flatten()
        made = self._draws.noise(rows.index, step, vocab)
        self._noise[:, rows.index] = made.view(ahead, -1, vocab)
        self._noise_at.zero_()
        return (self._noise_at,)

    def _noise_now(self, rows: "_Rows", vocab: int) -> Tensor | None:
        """(R, V), of the step that is made."""
        if rows.rules.all_greedy:
            return None
        if self._noise is None:
            return self._draws.noise(rows.index, self.step[rows.index], vocab)
        noise = self._noise[:, rows.index].index_select(0, self._noise_at)[0]
        # Round: a step that is recorded is made a few times, and would leave what there is.
        self._noise_at.add_(1).remainder_(len(self._noise))
        return noise

    def _step(self, rows: "_Rows", turn: int) -> tuple[Tensor, ...]:
        """One step of the rows, by its graph where there is one."""
        span = 0
        if self._masked:
            longest = max(self.live[slot] for slot in rows.active)
            span = span_for(longest + 1, self.cache.context)
        if self.graphs is None:
            return self._body(rows, turn, span)
        # Kernels look at what is live: one graph serves every span. The body is still told it, for
        # where recording fails it is torch that takes the step.
        key = (len(rows.slots), turn, 0 if self._has_kernels(rows) else span, rows.rules)
        return self.graphs.step(key, lambda: self._body(rows, turn, span))

    def _has_kernels(self, rows: "_Rows") -> bool:
        recorded = self.graphs is not None and self.graphs.records
        kernels = self._kernels
        return recorded and kernels is not None and len(rows.slots) <= kernels.most_rows

    def _body(self, rows: "_Rows", turn: int, span: int) -> tuple[Tensor, ...]:
        """Feed each row's pending token, sample the next. Returns row numbers (R,), ended (R,), and
        where rows are scored their log-probabilities (R,).
        """
        index = rows.index
        # A slot that has used up the context may still be an idle row.
        position = self.position[index].clamp(max=self.cache.context - 1)
        x = self._embedded(self.token[index]) + self._transformer.wpe[position]
        if self._fused is not None:
            logits = self._fused(x, rows.slots, [self.live[slot] for slot in rows.slots], turn)
        elif self._kernels is not None and self._has_kernels(rows):
            logits = self._kernels(x, position, turn)
            if rows.rules.plain:
                return self._drawn(self._kernels, logits, turn)
        else:
            logits = self._heads[turn](self._transformer(x, self._attend(rows, position, span)))
        with alone():
            noise = self._noise_now(rows, logits.shape[-1])
            drawn = self._draws.sample(logits.to(self._float), index, noise, rows.rules)
            row, scores = drawn.row, () if drawn.log_prob is None else (drawn.log_prob,)
            advance = self.exec_mask[index]
            self.token[index] = torch.where(advance, row + self._offsets[turn], self.token[index])
            self.position[index] += advance
            self.step[index] += advance
        return row, drawn.ended, *scores

    def _drawn(self, kernels: GpuDecode, logits: Tensor, turn: int) -> tuple[Tensor, ...]:
        """The same as behind any other step, in one kernel."""
        assert self._noise is not None
        drawn = kernels.ops.draw(
            logits,
            self._noise,
            self._noise_at,
            self._state,
            offset=self._offsets[turn],
            end_row=self._draws.end_row,
        )
        self._noise_at.add_(1).remainder_(len(self._noise))
        return drawn

    def _attend(self, rows: "_Rows", position: Tensor, span: int) -> Attend:
        if self._masked:
            return DecodeMasked(self.cache, position, span)
        return DecodeEach(self.cache, rows.slots, [self.live[slot] for slot in rows.slots])


@dataclass(frozen=True)
class _Rows:
    """What holds for all steps of one run: which slots are rows, and what sampling must do."""

    active: list[int]
    slots: list[int]  # the rows; the first so many where idle ones take part
    index: slice | Tensor
    rules: Rules
