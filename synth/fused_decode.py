"""A decode step over 8 bit weights in one call, where this processor and build can do it.

`FusedDecode` is one transformer's step over a cache's slots, by `int8_kernels`. It rounds as
`Int8Linear` does, so a step is the same as the one made of torch's operations, up to the order of
sums. Knows nothing of tokens.

Shape letters: R rows, C width, V outputs of a head.
"""

import logging
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from synth.kv_cache import KVCache
from synth.linear import WITHOUT_KERNELS, Linear, PackedInt8Linear, int8_kernels
from synth.transformer import Transformer

log = logging.getLogger(__name__)


class FusedDecode:
    """One transformer over the slots of one cache; call it with one new position a row."""

    def __init__(
        self, module: ModuleType, transformer: Transformer, heads: Sequence[Linear], keys: KVCache
    ) -> None:
        self._module = module
        shape = transformer.shape
        blocks = transformer.blocks
        products = [(b.c_attn, b.attn_proj, b.c_fc, b.mlp_proj) for b in blocks]
        self._weights = np.array([[_packed(p).packed.ctypes.data for p in row] for row in products])
        by_kind = [[_packed(p) for p in kind] for kind in zip(*products, strict=True)]
        self._scales = tuple(np.stack([p.scale for p in kind]) for kind in by_kind)
        self._shifts = tuple(np.stack([p.shift for p in kind]) for kind in by_kind)
        norms = [[block.ln_1.weight.numpy(), block.ln_2.weight.numpy()] for block in blocks]
        self._norms = np.array(norms)
        self._last_norm = transformer.ln_f.weight.numpy()
        packed = [_packed(head) for head in heads]
        self._heads = [(p.packed.ctypes.data, p.scale, p.shift) for p in packed]
        self._keys, self._values = _array(keys.k), _array(keys.v)
        self._sizes = (shape.width, shape.n_head, keys.context)
        self._spaces: dict[int, tuple[np.ndarray, ...]] = {}
        self._held = (transformer, heads, keys)  # whose memory the addresses are of

    @classmethod
    def of(
        cls, transformer: Transformer, heads: Sequence[Linear], keys: KVCache
    ) -> "FusedDecode | None":
        """The step of this transformer, compiled; None where it cannot be made so.

        What it takes to know that is one step at slot 0, position 0.
        """
        block = transformer.blocks[0]
        if not isinstance(block.c_attn, PackedInt8Linear) or block.ln_1.bias is not None:
            return None
        module = int8_kernels()
        assert module is not None
        try:
            made = cls(module, transformer, heads, keys)
            made(torch.zeros(1, transformer.shape.width), [0], [0], 0)
        except Exception as error:  # of a compiler; speed is all that is lost
            log.warning("Numba could not compile a step (%s): %s.", error, WITHOUT_KERNELS)
            return None
        return made

    def __call__(
        self, x: Tensor, slots: Sequence[int], positions: Sequence[int], head: int
    ) -> Tensor:
        """x (R, C) float32, overwritten, at `positions` of `slots` -> a head's logits (R, V)."""
        rows = x.shape[0]
        space = self._spaces.get(rows)
        if space is None:
            space = self._spaces[rows] = self._module.workspace(rows, *self._sizes)
        scale = self._heads[head][1]
        logits = np.empty((rows, scale.size), np.float32)
        self._module.decode(
            x.numpy(),
            self._norms,
            self._last_norm,
            self._weights,
            self._scales,
            self._shifts,
            self._keys,
            self._values,
            np.asarray(slots, np.int64),
            np.asarray(positions, np.int64),
            self._heads[head],
            logits,
            space,
        )
        return torch.from_numpy(logits)


def _packed(linear: Linear) -> PackedInt8Linear:
    assert isinstance(linear, PackedInt8Linear)
    return linear


def _array(tensor: Tensor) -> np.ndarray:
    """The same memory for Numba, which knows no bfloat16: its bits."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()
