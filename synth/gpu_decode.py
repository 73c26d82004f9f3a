"""A decode step of the first few slots on a GPU, made of `gpu_kernels`; recorded as a graph.

Stands in for `Transformer` and the head behind it. Launched one by one, Triton's kernels take the
host longer than torch's, so a stepper uses this only where it records its steps.

Shape letters: R rows, C width, V vocabulary.
"""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from synth.kv_cache import KVCache
from synth.linear import Linear
from synth.transformer import Transformer

log = logging.getLogger(__name__)

# Beyond that torch's products win. Recorded, ms a step of the large model on an H200 with 1, 2, 4,
# 8 and 16 rows: .90, 1.08, 1.31, 1.86, 3.53 by these kernels; 1.36, 1.38, 1.38, 1.36, 1.51 without.
MOST_ROWS = 4
_NEAR = 0.03  # of the largest: several roundings of bfloat16, and far less than a mistake


@cache
def gpu_kernels() -> ModuleType | None:
    """The module `synth.gpu_kernels`; None where Triton is missing, as it is outside Linux."""
    try:
        from synth import gpu_kernels as kernels
    except Exception as error:  # whatever a compiler's import may raise: only speed is lost
        log.warning("Triton did not load (%s): decode steps take longer on the GPU.", error)
        return None
    return kernels


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
    kernels: ModuleType

    @classmethod
    def of(
        cls,
        transformer: Transformer,
        heads: Sequence[Linear],
        cache: KVCache,
        kernels: ModuleType | None = None,
    ) -> "GpuDecode | None":
        """None where the kernels are missing, made for other numbers, or wrong. kernels: in place
        of `gpu_kernels`.
        """
        shape, dtype = transformer.shape, transformer.precision.dtype
        kernels = kernels or gpu_kernels()
        if kernels is None or not kernels.fits(shape.width, shape.head_size, dtype):
            return None
        made = cls(transformer, heads, cache, kernels)
        with _on(transformer.wpe.device):
            return made if made._agrees() else None

    def _agrees(self) -> bool:
        """Whether what the compiler made for this card does what torch does: a wrong kernel would
        be heard as noise, and nothing else would tell.
        """
        shape, like = self.transformer.shape, self.transformer.wpe
        block = self.transformer.blocks[0]
        heads = (1, shape.n_head, self.cache.context, shape.head_size)
        random = torch.Generator(like.device).manual_seed(0)

        def normal(*size: int) -> Tensor:
            return torch.randn(size, generator=random, device=like.device).to(like.dtype)

        x, qkv, out = normal(1, shape.width), normal(1, 3 * shape.width), normal(1, shape.width)
        keys, values, product = normal(*heads), normal(*heads), normal(1, 3 * shape.width)
        gain = block.ln_1.weight
        normed = F.layer_norm(x.float(), (shape.width,), gain.float())
        pairs = [(product, normed @ block.c_attn.weight.float().T)]
        try:
            self.kernels.linear(x, block.c_attn.weight, product, gain=gain)
            for at in (3, min(300, self.cache.context - 1)):  # few, where each counts, and many
                position = torch.tensor([at], device=like.device)
                self.kernels.attend(qkv, keys, values, position, out)
                q = qkv.view(3, *heads[:2], 1, shape.head_size)[0].float()
                k, v = (cache[:, :, : at + 1].float() for cache in (keys, values))
                exact = F.scaled_dot_product_attention(q, k, v).view(1, -1)
                pairs.append((out.clone(), exact))
        except Exception as error:  # a compiler has many ways to fail: only speed is lost
            log.warning("Triton made no kernels (%s): decode steps take longer.", error)
            return False
        for ours, theirs in pairs:
            if not (ours - theirs).abs().max() <= _NEAR * theirs.abs().max():
                log.warning("Triton's kernels are wrong on this card: torch's are used.")
                return False
        return True

    def __call__(self, x: Tensor, position: Tensor, turn: int) -> Tensor:
        """x (R, C), overwritten, at `position` (R,) of the first R <= MOST_ROWS slots.

        Returns the logits of head `turn`, (R, V) float32.
        """
        linear, attend = self.kernels.linear, self.kernels.attend
        rows, width = x.shape
        qkv, seen = x.new_empty(rows, 3 * width), x.new_empty(rows, width)
        inner = x.new_empty(rows, 4 * width)
        for layer, block in enumerate(self.transformer.blocks):
            linear(x, block.c_attn.weight, qkv, gain=block.ln_1.weight)
            attend(qkv, self.cache.k[layer], self.cache.v[layer], position, seen)
            linear(seen, block.attn_proj.weight, x, add=True)
            linear(x, block.c_fc.weight, inner, gain=block.ln_2.weight, gelu=True)
            linear(inner, block.mlp_proj.weight, x, add=True)
        head = self.heads[turn]
        logits = torch.empty(rows, head.size_out, device=x.device)
        linear(x, head.weight, logits, gain=self.transformer.ln_f.weight)
        return logits
