"""Many positions at once over packed weights in one call, where this processor and build can.

`FusedForward` is one transformer over a prompt of a cache's slot, or over a window without a cache,
by `cpu_forward`: what `FusedDecode` is to a step. Knows nothing of tokens.

Shape letters: T positions, C width.
"""

import logging
from functools import partial
from types import ModuleType

import torch
from torch import Tensor

from synth.helpers import Helpers, compiles
from synth.kv_cache import KVCache
from synth.linear import cpu_kernels
from synth.packed import Packed, array
from synth.transformer import Transformer

log = logging.getLogger(__name__)

_MOST_THREADS = 16  # as many blocks as the longest prompt has


class FusedForward:
    """One transformer; with a cache positions look back, without one all see each other."""

    def __init__(self, module: ModuleType, weights: Packed, cache: KVCache | None) -> None:
        self._module, self._weights = module, weights
        transformer = weights.transformer
        self._shape, self._context = transformer.shape, transformer.shape.context
        self._causal = cache is not None
        if cache is None:
            shape = self._shape
            none = torch.zeros(
                (shape.n_layer, 1, shape.n_head, 0, shape.head_size),
                dtype=transformer.precision.cache_dtype,
            )
            self._cached = (array(none), array(none))
        else:
            self._cached = (array(cache.k), array(cache.v))
            self._context = cache.context
        self._helpers = Helpers(
            "prompt", most=1
        )  # for the trial: no other thread compiles or writes
        self._held = cache  # whose memory the arrays are of

    @classmethod
    def of(cls, transformer: Transformer, cache: KVCache | None = None) -> "FusedForward | None":
        """This transformer's, compiled; None where it cannot be made so.

        What it takes to know that is one position, the first of slot 0.
        """
        weights, shape = Packed.of(transformer), transformer.shape
        if weights is None or cpu_kernels() is None:
            return None
        from synth import cpu_forward as module  # which needs Numba

        if not module.fits(shape.width, shape.head_size):
            log.info("Prompts of width %d are made one product at a time.", shape.width)
            return None
        made = cls(module, weights, cache)
        if not compiles(lambda: made(torch.zeros(1, shape.width)), "a prompt"):
            return None
        made._helpers = Helpers("prompt", _MOST_THREADS)
        return made

    def __call__(self, x: Tensor, slot: int = 0, start: int = 0, needed: int = 0) -> Tensor:
        """x (T, C) float32, contiguous, overwritten, at positions from `start` of a slot.

        What the cache holds before `start` is looked back on. Returns x: the rows from `needed` on
        are what `Transformer` returns, the others nobody's. Raises AssertionError for positions
        past the context, and what a helper's thread met with in an earlier call.
        """
        rows, shape, weights = x.shape[0], self._shape, self._weights
        # The compiled function checks no bounds.
        assert 0 <= start <= self._context - rows, "the prompt is longer than the model's context"
        assert 0 <= slot < self._cached[0].shape[1], "there is no such slot"
        assert x.is_contiguous() and (self._causal or not start)
        shared = self._module.shared(rows, start, shape.n_head, shape.head_size)
        room = shared[2].shape[3] * shared[2].shape[5]
        work = (
            x.numpy(),
            start,
            needed,
            weights.norms,
            weights.last_norm,
            weights.weights,
            weights.scales,
            weights.shifts,
            self._cached,
            slot,
            self._causal,
            shared,
            self._module.pieces(len(weights.norms)),
        )
        # Made anew for each call: a prompt is rare, and 10 MB are not to be kept for it.
        rounded = weights.dtype, weights.attended_dtype
        own = partial(self._module.own, room, shape.width, *rounded)
        self._helpers.run(self._module.forward, work, lambda _: own())
        return x
