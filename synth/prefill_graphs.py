"""Prefills recorded and replayed: one CUDA graph for all prompts of about a length, in any slot.

A graph repeats the same shapes on the same memory. So the prompt is copied to a place of its own
and filled up to a bucket of positions, and where it belongs, slot and first position, is read on
the device. What fills it up comes after the prompt: no position of the prompt looks at it, and what
it leaves in the slot's cache is stale, as is all that lies there. Knows nothing of tokens.

Shape letters: T positions, C width.
"""

import torch
from torch import Tensor

from synth.kv_cache import KVCache, PrefillMasked
from synth.step_graphs import Record, StepGraphs
from synth.transformer import Transformer

# A prompt is filled up to a multiple of this many positions. Fewer would be more graphs; more are
# more work for nothing, which a slow card feels.
PROMPT_BUCKET = 128
# A clip of so many seconds has had windows of every length; shorter, the next one would record.
WARM_UP_S = 5.0


class PrefillGraphs:
    """The recorded prefills of one transformer into the slots of one cache.

    record: None for CUDA graphs. Where recording fails, `fits` says no from then on. Decode steps,
    which gain more, are recorded apart, and not touched by that.
    """

    def __init__(
        self, transformer: Transformer, cache: KVCache, record: Record | None = None
    ) -> None:
        self._transformer, self._cache = transformer, cache
        wpe = transformer.wpe
        size = (cache.context, transformer.shape.width)
        # What bodies read, each at one place for good; they change nothing of it.
        self._x = torch.zeros(size, dtype=transformer.precision.dtype, device=wpe.device)
        self._slot = torch.zeros(1, dtype=torch.int64, device=wpe.device)
        self._start = torch.zeros(1, dtype=torch.int64, device=wpe.device)
        self._graphs = StepGraphs((self._slot, self._start), record, what="prefills")

    def fits(self, start: int, count: int) -> bool:
        """Whether such a prompt can be taken in here: it, and what fills it up, lie within the
        context.
        """
        bucket = self._bucket(count)
        within = 0 < count <= bucket and start + bucket <= self._cache.context
        return within and self._graphs.records

    def __call__(self, slot: int, start: int, x: Tensor) -> None:
        """Take in the prompt x (T, C), without its positions, at [start, start + T) of a slot.

        What the slot's cache holds after it, up to the bucket's end, is overwritten.
        """
        assert self.fits(start, x.shape[0])
        self._x[: x.shape[0]] = x
        self._slot.fill_(slot)
        self._start.fill_(start)
        bucket, first = self._bucket(x.shape[0]), start == 0
        self._graphs.step((bucket, first), lambda: self._body(bucket, first))

    def _bucket(self, count: int) -> int:
        return min(self._cache.context, -(-count // PROMPT_BUCKET) * PROMPT_BUCKET)

    def _body(self, bucket: int, first: bool) -> tuple[Tensor, ...]:
        position = self._start + torch.arange(bucket, device=self._start.device)
        x = self._x[:bucket] + self._transformer.wpe[position]
        self._transformer(x, PrefillMasked(self._cache, self._slot, position, first=first))
        return ()
