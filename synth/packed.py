"""A transformer's packed weights and norms as the compiled functions of `cpu_kernels` take them.

Addresses and arrays, made once; the transformer is held, whose memory they are of. Knows nothing of
what is run over them.

Shape letters: L layers, C width.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from synth.linear import Linear, PackedLinear
from synth.transformer import Norm, Transformer


@dataclass(frozen=True)
class Packed:
    """weights (L, 4) int64: addresses of c_attn, attn_proj, c_fc, mlp_proj; scales, shifts: four
    (L, outputs); norms (L, 2, 2, C) and last_norm (2, C): weights and biases; dtype: what rows are
    rounded to, attended_dtype: those that attention gives.
    """

    transformer: Transformer
    dtype: np.dtype
    attended_dtype: np.dtype
    weights: np.ndarray
    scales: tuple[np.ndarray, ...]
    shifts: tuple[np.ndarray, ...]
    norms: np.ndarray
    last_norm: np.ndarray

    @classmethod
    def of(cls, transformer: Transformer) -> "Packed | None":
        """None for a transformer whose weights are not packed."""
        blocks = transformer.blocks
        if not isinstance(blocks[0].c_attn, PackedLinear):
            return None
        rows = [(b.c_attn, b.attn_proj, b.c_fc, b.mlp_proj) for b in blocks]
        kinds = [[packed(product) for product in kind] for kind in zip(*rows, strict=True)]
        return cls(
            transformer,
            packed(blocks[0].c_attn).dtype,
            packed(blocks[0].attn_proj).dtype,
            np.array([[packed(product).packed.ctypes.data for product in row] for row in rows]),
            tuple(np.stack([product.scale for product in kind]) for kind in kinds),
            tuple(np.stack([product.shift for product in kind]) for kind in kinds),
            np.array([[_norm(block.ln_1), _norm(block.ln_2)] for block in blocks]),
            np.array(_norm(transformer.ln_f)),
        )


def packed(linear: Linear) -> PackedLinear:
    """The same, known to be one."""
    assert isinstance(linear, PackedLinear)
    return linear


def array(tensor: Tensor) -> np.ndarray:
    """The same memory for Numba, which knows no bfloat16: its bits."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


def _norm(norm: Norm) -> tuple[np.ndarray, np.ndarray]:
    bias = torch.zeros_like(norm.weight) if norm.bias is None else norm.bias
    return norm.weight.numpy(), bias.numpy()
