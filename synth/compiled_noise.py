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

from synth.compiled import kept
from synth.int8_arithmetic import OPTIONS

# Not in another order than torch: other bits would be other noise.
_OPTIONS: dict[str, Any] = OPTIONS | {"fastmath": False}
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@njit(**_OPTIONS)
def _mix(x):
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))


@kept(options=_OPTIONS)
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
