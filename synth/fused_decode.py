"""A decode step over 8 bit weights in one call, where this processor and build can do it.

`FusedDecode` is one transformer's step over a cache's slots, by `int8_kernels`. It rounds as
`Int8Linear` does, so a step is the same as the one made of torch's operations, up to the order of
sums. Knows nothing of tokens.

Shape letters: R rows, C width, V outputs of a head.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from synth.kv_cache import KVCache
from synth.linear import WITHOUT_KERNELS, Linear, PackedInt8Linear, int8_kernels
from synth.transformer import Transformer

log = logging.getLogger(__name__)

_MOST_THREADS = 8  # of a step; before that many, memory gives out no more


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
        self._shared: dict[int, tuple[np.ndarray, ...]] = {}
        self._own: dict[tuple[int, int], tuple[np.ndarray, ...]] = {}  # thread, rows
        self._helpers: list[_Helper] = []
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
        """x (R, C) float32, overwritten, at `positions` of `slots` -> a head's logits (R, V).

        Raises what a helper's thread met with in an earlier step.
        """
        module, rows = self._module, x.shape[0]
        width, n_head, context = self._sizes
        # The compiled step checks no bounds, and would write into the next head's keys.
        assert max(positions) < context, "a position is past the model's context"
        if rows not in self._shared:
            self._shared[rows] = module.shared(rows, width, n_head, context)
        logits = np.empty((rows, self._heads[head][1].size), np.float32)
        step = (
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
            self._shared[rows],
            module.counters(len(self._norms)),
        )
        others = min(torch.get_num_threads(), _MOST_THREADS) - 1
        while len(self._helpers) < others:
            self._helpers.append(_Helper())
        for number, helper in enumerate(self._helpers[:others], 1):
            helper.help(module.decode, *step, self._space(number, rows))
        module.decode(*step, self._space(0, rows))
        return torch.from_numpy(logits)

    def _space(self, thread: int, rows: int) -> tuple[np.ndarray, ...]:
        if (thread, rows) not in self._own:
            self._own[thread, rows] = self._module.own(rows, self._sizes[0])
        return self._own[thread, rows]


class _Helper:
    """A thread that lends a hand with a step where it is free in time."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "decode")
        self._waiting: deque[Future[None]] = deque()

    def help(self, step: Callable[..., None], *args: Any) -> None:
        """Begin as soon as the last one is over; not at all when one waits for that already.

        Raises what one that is over failed with.
        """
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft().result()
        if len(self._waiting) < 2:
            self._waiting.append(self._pool.submit(step, *args))


def _packed(linear: Linear) -> PackedInt8Linear:
    assert isinstance(linear, PackedInt8Linear)
    return linear


def _array(tensor: Tensor) -> np.ndarray:
    """The same memory for Numba, which knows no bfloat16: its bits."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()
