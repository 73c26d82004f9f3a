"""A decode step of the first few slots on a GPU, made of `gpu_ops`; recorded as a graph.

Stands in for `Transformer` and the head behind it. Launched one by one, Triton's kernels take the
host longer than torch's, so a stepper uses this only where it records its steps.

Shape letters: R rows, C width, V vocabulary.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from synth.kv_cache import KVCache
from synth.linear import Linear
from synth.slot_draws import SlotState
from synth.transformer import Transformer

log = logging.getLogger(__name__)

_NEAR = 0.03  # of the largest: several roundings of bfloat16, and far less than a mistake


@cache
def gpu_ops() -> ModuleType | None:
    """The module `synth.gpu_ops`; None where Triton is missing, as it is outside Linux."""
    try:
        from synth import gpu_ops as ops
    except Exception as error:  # whatever a compiler's import may raise: only speed is lost
        log.warning("Triton did not load (%s): decode steps take longer on the GPU.", error)
        return None
    return ops


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current card, wherever the tensors are."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@dataclass(frozen=True)
class GpuDecode:
    """One transformer, its heads and its cache. Called on the card where these are, as a recorder
    sees to.
    """

    transformer: Transformer
    heads: Sequence[Linear]
    cache: KVCache
    ops: ModuleType
    scratch: Any  # `gpu_ops.Scratch`
    most_rows: int  # beyond that many torch's products win

    @classmethod
    def of(
        cls,
        transformer: Transformer,
        heads: Sequence[Linear],
        cache: KVCache,
        ops: ModuleType | None = None,
    ) -> "GpuDecode | None":
        """None where the kernels are missing, made for other numbers, or wrong; of few rows where
        only those for more are. ops: in place of `gpu_ops`.
        """
        shape, dtype = transformer.shape, transformer.precision.dtype
        ops = ops or gpu_ops()
        if ops is None or not ops.fits(shape.width, shape.head_size, dtype):
            return None
        device = transformer.wpe.device
        most = min(cache.k.shape[1], ops.most_rows(dtype, device))
        with _on(device):
            scratch = ops.scratch_for(most, shape.n_head, cache.context, shape.head_size, device)
            for rows in sorted({most, min(most, ops.FEW_ROWS)}, reverse=True):
                made = cls(transformer, heads, cache, ops, scratch, rows)
                if made._agrees():
                    return made
        return None

    def _agrees(self) -> bool:
        """Whether what the compiler made for this card does what torch does: a wrong kernel would
        be heard as noise, and nothing else would tell.
        """
        try:
            right = self._draws() and all(
                (ours - theirs).abs().max() <= _NEAR * theirs.abs().max()
                for ours, theirs in (*self._products(), *self._looks_back())
            )
        except Exception as error:  # a compiler has many ways to fail: only speed is lost
            log.warning(
                "Triton made no kernels for %d rows (%s): decode steps take longer.",
                self.most_rows,
                error,
            )
            return False
        if not right:
            log.warning("Triton's kernels are wrong on this card: torch's are used.")
        return right

    def _normal(self, *size: int) -> Tensor:
        """Random numbers, the same for the same size."""
        like = self.transformer.wpe
        random = torch.Generator(like.device).manual_seed(0)
        return torch.randn(size, generator=random, device=like.device).to(like.dtype)

    def _products(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Of one row, few and all, beside torch in single precision."""
        block, width = self.transformer.blocks[0], self.transformer.shape.width
        gain, weight = block.ln_1.weight, block.c_attn.weight
        for rows in sorted({1, min(self.ops.FEW_ROWS, self.most_rows), self.most_rows}):
            x, out = self._normal(rows, width), self._normal(rows, 3 * width)
            self.ops.linear(x, weight, out, self.scratch, gain=gain)
            yield out, F.layer_norm(x.float(), (width,), gain.float()) @ weight.float().T
            x, out = self._normal(rows, 4 * width), self._normal(rows, width)
            self.ops.linear(x, block.mlp_proj.weight, out, self.scratch)
            yield out, x.float() @ block.mlp_proj.weight.float().T

    def _looks_back(self) -> Iterator[tuple[Tensor, Tensor]]:
        shape, context = self.transformer.shape, self.cache.context
        heads = (1, shape.n_head, context, shape.head_size)
        keys, values = self._normal(*heads), self._normal(*heads).flip(2)
        qkv, out = self._normal(1, 3 * shape.width), self._normal(1, shape.width)
        for at in (3, min(300, context - 1)):  # few, where each counts, and many
            position = torch.tensor([at], device=qkv.device)
            self.ops.attend(qkv, keys, values, position, out, self.scratch)
            q = qkv.view(3, *heads[:2], 1, shape.head_size)[0].float()
            k, v = (cache[:, :, : at + 1].float() for cache in (keys, values))
            yield out.clone(), F.scaled_dot_product_attention(q, k, v).view(1, -1)

    def _draws(self) -> bool:
        """Whether a token is drawn that is likely and ends the sequence, and its slot moved on."""
        logits = 3 * self._normal(1, 1000).float()
        noise = self._normal(3, 1, 1000).float().square() + 0.1
        expected = (logits.softmax(-1) / noise[1]).argmax(-1)
        one, on = torch.ones(1, device=logits.device), torch.ones_like(logits[0, :1] > 0)
        state = SlotState(one, on, 2 * one, on, *(one.long() for _ in range(3)))
        noise_at, end = one.long(), int(expected)
        if logits.is_cuda:  # the kernel reads them before it waits for what is in front of it
            torch.cuda.synchronize()
        row, ended = self.ops.draw(logits, noise, noise_at, state, offset=7, end_row=end)
        moved = torch.stack([state.token - 7, state.position + end - 2, state.step + end - 2])
        return bool((row == end).all() and ended.all() and (moved == end).all())

    def __call__(self, x: Tensor, position: Tensor, turn: int) -> Tensor:
        """x (R, C), overwritten, at `position` (R,) of the first R <= most_rows slots.

        Returns the logits of head `turn`, (R, V) float32.
        """
        linear, attend = self.ops.linear, self.ops.attend
        rows, width = x.shape
        qkv, seen = x.new_empty(rows, 3 * width), x.new_empty(rows, width)
        inner = x.new_empty(rows, 4 * width)
        scratch = self.scratch
        for layer, block in enumerate(self.transformer.blocks):
            linear(x, block.c_attn.weight, qkv, scratch, gain=block.ln_1.weight)
            attend(qkv, self.cache.k[layer], self.cache.v[layer], position, seen, scratch)
            linear(seen, block.attn_proj.weight, x, scratch, add=True)
            linear(x, block.c_fc.weight, inner, scratch, gain=block.ln_2.weight, gelu=True)
            linear(inner, block.mlp_proj.weight, x, scratch, add=True)
        head = self.heads[turn]
        logits = torch.empty(rows, head.size_out, device=x.device)
        linear(x, head.weight, logits, scratch, gain=self.transformer.ln_f.weight)
        return logits
