"""A decode step over packed weights in one call, where this processor and build can do it.

`FusedDecode` is one transformer's step over a cache's slots, by `cpu_kernels`. It rounds as its
packed `Linear`s do, so a step is the same as the one made of torch's operations, up to the order of
sums. Knows nothing of tokens.

Shape letters: R rows, C width, V outputs of a head.
"""

from collections.abc import Sequence
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from synth.helpers import Helpers, compiles
from synth.kv_cache import KVCache
from synth.linear import Linear, cpu_kernels
from synth.packed import Packed, array, packed
from synth.transformer import Transformer

_MOST_THREADS = 8  # before that many, memory gives out no more


class FusedDecode:
    """One transformer over the slots of one cache; call it with one new position a row."""

    def __init__(
        self, module: ModuleType, weights: Packed, heads: Sequence[Linear], cache: KVCache
    ) -> None:
        self._module, self._weights = module, weights
        shape = weights.transformer.shape
        self._heads = [(p.packed.ctypes.data, p.scale, p.shift) for p in map(packed, heads)]
        self._keys, self._values = array(cache.k), array(cache.v)
        self._sizes = (shape.width, shape.n_head, cache.context)
        self._shared: dict[int, tuple[np.ndarray, ...]] = {}
        self._own: dict[tuple[int, int], tuple[np.ndarray, ...]] = {}  # thread, rows
        self._helpers = Helpers(
            "decode", most=1
        )  # for the trial: no other thread compiles or writes
        self._held = (heads, cache)  # whose memory the addresses are of

    @classmethod
    def of(
        cls, transformer: Transformer, heads: Sequence[Linear], cache: KVCache
    ) -> "FusedDecode | None":
        """The step of this transformer, compiled; None where it cannot be made so.

        What it takes to know that is one step at slot 0, position 0.
        """
        weights, module = Packed.of(transformer), cpu_kernels()
        if weights is None or module is None:
            return None
        made = cls(module, weights, heads, cache)
        first = torch.zeros(1, transformer.shape.width)
        if not compiles(lambda: made(first, [0], [0], 0), "a step"):
            return None
        made._helpers = Helpers("decode", _MOST_THREADS)
        return made

    def __call__(
        self, x: Tensor, slots: Sequence[int], positions: Sequence[int], head: int
    ) -> Tensor:
        """x (R, C) float32, overwritten, at `positions` of `slots` -> a head's logits (R, V).

        Raises AssertionError for a position past the context, and what a helper's thread met with
        in an earlier step.
        """
        module, weights, rows = self._module, self._weights, x.shape[0]
        width, n_head, context = self._sizes
        # The compiled step checks no bounds, and would write into the next head's keys.
        assert max(positions) < context, "a position is past the model's context"
        if rows not in self._shared:
            self._shared[rows] = module.shared(rows, width, n_head, context)
        logits = np.empty((rows, self._heads[head][1].size), np.float32)
        step = (
            x.numpy(),
            weights.norms,
            weights.last_norm,
            weights.weights,
            weights.scales,
            weights.shifts,
            self._keys,
            self._values,
            np.asarray(slots, np.int64),
            np.asarray(positions, np.int64),
            self._heads[head],
            logits,
            self._shared[rows],
            module.pieces(len(weights.norms)),
        )
        self._helpers.run(module.decode, step, lambda thread: self._space(thread, rows))
        return torch.from_numpy(logits)

    def _space(self, thread: int, rows: int) -> tuple[np.ndarray, ...]:
        if (thread, rows) not in self._own:
            weights = self._weights
            self._own[thread, rows] = self._module.own(
                rows, self._sizes[0], weights.dtype, weights.attended_dtype
            )
        return self._own[thread, rows]
