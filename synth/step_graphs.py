"""Steps recorded once and replayed: a CUDA graph where the body of a step would be called.

A decode step of a large model is 130 kernels, a prefill 320, a run of the codec up to a thousand;
launched one by one the host is slower than the device. A graph repeats the very kernels that it
recorded, on the same memory, so whatever the host decides for a step (rows, span, filters) is part
of the key it is kept under, and what changes from step to step lives in tensors. Graphs are
recorded when first needed, in a fraction of a second each, and share one pool of memory: an output
is copied before the next replay.
"""

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Body = Callable[[], tuple[Tensor, ...]]

_WARM_UPS = 2  # libraries choose their kernels and allocate before anything is recorded


@dataclass(frozen=True)
class Recorded:
    """A step that can be repeated, and where its results then lie."""

    replay: Callable[[], Any]
    outputs: tuple[Tensor, ...]


# Called with a body and the tensors that it changes, which are to be as before afterwards.
Record = Callable[[Body, Sequence[Tensor]], Recorded]


class CudaRecorder:
    """Records bodies as CUDA graphs that share one pool of memory."""

    def __init__(self) -> None:
        self._pool: Any = None
        # One for all: libraries keep a workspace of 8 to 32 MB for each stream that they have seen.
        self._warming: torch.cuda.Stream | None = None

    def __call__(self, body: Body, state: Sequence[Tensor]) -> Recorded:
        with torch.cuda.device(state[0].device):  # or another card's streams would be recorded
            return self._record(body, state)

    def _record(self, body: Body, state: Sequence[Tensor]) -> Recorded:
        before = [tensor.clone() for tensor in state]
        stream = self._warming = self._warming or torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    body()
            torch.cuda.current_stream().wait_stream(stream)
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            # Only this thread's calls may spoil it: another one may be copying for something else.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                outputs = body()
        finally:
            for tensor, held in zip(state, before, strict=True):
                tensor.copy_(held)
        return Recorded(graph.replay, outputs)


class StepGraphs:
    """What is recorded of one kind, for whoever repeats it. what: the kind, for the log.

    state: the tensors that it changes, one at least, besides what is stale afterwards, as a cache's
    rows past a position are. Where recording fails, it is made one kernel at a time from then
    on, and the log says so.
    """

    def __init__(
        self, state: Sequence[Tensor], record: Record | None = None, *, what: str = "steps"
    ) -> None:
        self._state = tuple(state)
        self._what = what
        self._record: Record | None = record or CudaRecorder()
        self._recorded: dict[Hashable, Recorded] = {}

    @property
    def records(self) -> bool:
        """Whether steps are recorded: nothing has gone wrong so far."""
        return self._record is not None

    def step(self, key: Hashable, body: Body) -> tuple[Tensor, ...]:
        """What `body` would do and return. key: all that it has decided on the host."""
        recorded = self._recorded.get(key)
        if recorded is None and self._record is not None:
            try:
                recorded = self._recorded[key] = self._record(body, self._state)
            except Exception as error:  # a compiler fails in its own ways: only speed is lost
                log.warning(
                    "%s cannot be recorded (%s): made without CUDA graphs", self._what, error
                )
                self._record = None
                self._recorded.clear()
        if recorded is None:
            return body()
        recorded.replay()
        return tuple(output.clone() for output in recorded.outputs)
