"""Keys and values of every slot, allocated once, and how a position looks back on them.

A slot is one job's place in the batch. The cache is (layer, slot, head, position, head size); a
slot's rows before its position are live, the rest is stale. Knows nothing of tokens.
"""

import math
import mmap
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from synth.vocab import TransformerShape

# On CUDA a decode step attends to a multiple of this many positions, so that a captured graph can
# be reused; on CPU each slot attends to exactly its own live length.
BUCKET = 256


class KVCache:
    """Static keys and values: two tensors (L, B, H, T, D), T the model's context."""

    def __init__(
        self, shape: TransformerShape, slots: int, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        size = (shape.n_layer, slots, shape.n_head, shape.context, shape.head_size)
        # Zeros, not empty memory: a masked position still takes part as 0 * value.
        self.k, self.v = (_zeros(size, device, dtype) for _ in range(2))
        self.dtype = dtype
        self.context = shape.context


def _zeros(size: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Zeros that take no memory before they are written to, where the system can do that.

    torch writes its zeros at once. Most of a slot's positions, and most slots, are never used.
    """
    if device.type != "cpu" or not hasattr(mmap, "MAP_ANONYMOUS"):
        return torch.zeros(size, device=device, dtype=dtype)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, math.prod(size) * dtype.itemsize, flags=flags)
    return torch.frombuffer(memory, dtype=dtype).view(*size)


class Prefill:
    """Attend for positions [start, start + T) of one slot, all at once, causally."""

    def __init__(self, cache: KVCache, slot: int, start: int, count: int) -> None:
        self._cache, self._slot, self._start, self._end = cache, slot, start, start + count
        assert self._end <= cache.context, "the prompt is longer than the model's context"
        self._mask: Tensor | None = None
        if start:  # is_causal means "from the first key on", which holds only at start 0
            rows = torch.arange(start, self._end, device=cache.k.device)
            columns = torch.arange(self._end, device=cache.k.device)
            self._mask = columns[None, :] <= rows[:, None]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v: (T, H, D) -> (T, C)."""
        keys, values = self._cache.k[layer, self._slot], self._cache.v[layer, self._slot]
        keys[:, self._start : self._end] = k.transpose(0, 1)  # casts to the cache's dtype
        values[:, self._start : self._end] = v.transpose(0, 1)
        y = F.scaled_dot_product_attention(
            q.transpose(0, 1)[None].to(self._cache.dtype),
            keys[None, :, : self._end],
            values[None, :, : self._end],
            attn_mask=self._mask,
            is_causal=self._mask is None,
        )
        return y[0].transpose(0, 1).reshape(q.shape[0], -1).to(q.dtype)


class PrefillMasked:
    """The same for a slot and positions that are read on the device (CUDA).

    slot: (1,) int64. position: (T,) int64, one after the other. first: whether they begin at 0, and
    look back on nothing but themselves.
    """

    def __init__(self, cache: KVCache, slot: Tensor, position: Tensor, *, first: bool) -> None:
        self._cache, self._slot, self._position = cache, slot, position
        # How much lies before them the host has not told: all of the context is looked at.
        self._mask = None if first else _hidden(cache, position, cache.context)  # (T, context)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v: (T, H, D) -> (T, C)."""
        keys, values = self._cache.k[layer], self._cache.v[layer]
        k, v = k.to(self._cache.dtype), v.to(self._cache.dtype)
        keys[self._slot, :, self._position] = k
        values[self._slot, :, self._position] = v
        if self._mask is None:
            keys, values = k.transpose(0, 1)[None], v.transpose(0, 1)[None]
        else:
            keys, values = keys.index_select(0, self._slot), values.index_select(0, self._slot)
        y = F.scaled_dot_product_attention(
            q.transpose(0, 1)[None].to(self._cache.dtype),
            keys,
            values,
            attn_mask=self._mask,
            is_causal=self._mask is None,
        )
        return y[0].transpose(0, 1).reshape(q.shape[0], -1).to(q.dtype)


class DecodeEach:
    """Attend for one new position a slot, slot by slot over its live length alone (CPU).

    Nothing is read that is not live, and a slot's result cannot depend on its neighbours.
    """

    def __init__(self, cache: KVCache, slots: Sequence[int], positions: Sequence[int]) -> None:
        self._cache = cache
        self._at = tuple(zip(slots, positions, strict=True))

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v: (R, H, D), one row a slot -> (R, C)."""
        keys, values = self._cache.k[layer], self._cache.v[layer]
        q = q.to(self._cache.dtype)[:, :, None]  # (R, H, 1, D)
        out: list[Tensor] = []
        for row, (slot, position) in enumerate(self._at):
            keys[slot, :, position] = k[row]
            values[slot, :, position] = v[row]
            live = position + 1
            out.append(
                F.scaled_dot_product_attention(
                    q[row : row + 1],
                    keys[slot : slot + 1, :, :live],
                    values[slot : slot + 1, :, :live],
                )
            )
        y = out[0] if len(out) == 1 else torch.cat(out)
        return y.reshape(len(self._at), -1).to(k.dtype)


class DecodeMasked:
    """Attend for one new position in the first slots at once, positions read on the device (CUDA).

    `position` is (B,), of as many slots; `span` positions are looked at and those past a slot's own
    are masked.
    """

    def __init__(self, cache: KVCache, position: Tensor, span: int) -> None:
        self._cache, self._position, self._span = cache, position, span
        self._slots = torch.arange(position.shape[0], device=position.device)
        self._mask = _hidden(cache, position, span)[:, None, None]  # (B, 1, 1, span)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v: (B, H, D) -> (B, C)."""
        wide = len(self._slots)
        keys, values = self._cache.k[layer, :wide], self._cache.v[layer, :wide]
        keys[self._slots, :, self._position] = k.to(self._cache.dtype)
        values[self._slots, :, self._position] = v.to(self._cache.dtype)
        y = F.scaled_dot_product_attention(
            q[:, :, None].to(self._cache.dtype),
            keys[:, :, : self._span],
            values[:, :, : self._span],
            attn_mask=self._mask,
        )
        return y.reshape(q.shape[0], -1).to(q.dtype)


def _hidden(cache: KVCache, position: Tensor, span: int) -> Tensor:
    """What hides from each position those after it: (N,) -> (N, span), 0 or -inf.

    Added to the scores, which is what a mask of bools would be turned into at every layer.
    """
    columns = torch.arange(span, device=position.device)
    none = torch.zeros((), device=position.device, dtype=cache.dtype)
    return none.masked_fill(columns[None, :] > position[:, None], -torch.inf)


def span_for(live: int, context: int) -> int:
    """The bucket that holds `live` positions."""
    return min(context, -(-live // BUCKET) * BUCKET)
