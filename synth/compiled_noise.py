"""The noise of `synth.sampling` in one pass, compiled by Numba, for where steps are compiled too.

Made of torch's operations it is twenty small ones, which take longer to be called than to be done
between two steps that have used the processor's caches for themselves. The same numbers, to the
last bit: the logarithm is torch's own. Knows keys and rows, no stages.
"""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from synth import sampling
from synth.compiled import kept
from synth.cpu_arithmetic import OPTIONS

# Not in another order than torch: other bits would be other noise.
_OPTIONS: dict[str, Any] = OPTIONS | {"fastmath": False}
_GOLDEN = np.uint64(sampling.GOLDEN)
(_SHIFT_1, _FACTOR_1), (_SHIFT_2, _FACTOR_2) = (
    (np.uint64(shift), np.uint64(factor)) for shift, factor in sampling.MIX
)


@njit(**_OPTIONS)
def _mix(x):
    x = (x ^ (x >> _SHIFT_1)) * _FACTOR_1
    x = (x ^ (x >> _SHIFT_2)) * _FACTOR_2
    return x ^ (x >> np.uint64(31))


@kept(sampling, options=_OPTIONS)
def _fill(keys, words, out):
    """out (R, V) float32 = -u, u uniform between 0 and 1, of keys and words (R,) uint64."""
    for row in range(len(keys)):
        key = _mix((keys[row] ^ _GOLDEN) + (words[row] + np.uint64(1)) * _GOLDEN)
        for column in range(out.shape[1]):
            x = _mix(key + np.uint64(column + 1) * _GOLDEN)
            u = (np.float32(np.int64(x >> np.uint64(32))) + np.float32(0.5)) * np.float32(2.0**-32)
            out[row, column] = -min(u, np.float32(1 - 2.0**-24))


def exponential(key: Tensor, word: Tensor, vocab: int) -> Tensor:
    """What `synth.sampling.exponential` makes in float32 of keys (R,) folded with words (R,) int64:
    (R, vocab).
    """
    out = torch.empty(len(key), vocab)
    _fill(_bits(key), _bits(word), out.numpy())
    return out.log1p_().neg_()


def _bits(x: Tensor) -> np.ndarray:
    return x.numpy().view(np.uint64)
