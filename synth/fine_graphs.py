"""The fine stage's passes recorded and replayed: a CUDA graph for each codebook.

A pass is some 280 kernels, and launching them takes the host twice as long as a fast card takes to
run them. A window that is not as long as Bark's, of low latency, is filled up, and how long it is
is read on the device. Knows nothing of jobs or noise.

Shape letters: T positions, C width.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from synth.step_graphs import Record, StepGraphs
from synth.transformer import Attend, attend_all

# Codes (T, codebooks), the book to predict and how to attend -> hidden states (T, C).
Pass = Callable[[Tensor, int, Attend], Tensor]


class FineGraphs:
    """The recorded passes over windows of up to `window` positions.

    record: None for CUDA graphs. Where recording fails, `fits` says no from then on.
    """

    def __init__(
        self,
        made: Pass,
        *,
        window: int,
        codebooks: int,
        dtype: torch.dtype,
        device: torch.device,
        record: Record | None = None,
    ) -> None:
        self._made, self._window, self._dtype = made, window, dtype
        # What bodies read, each at one place for good; they change nothing of it.
        self._seen = torch.zeros(window, codebooks, dtype=torch.int64, device=device)
        self._size = torch.zeros(1, dtype=torch.int64, device=device)
        self._graphs = StepGraphs((self._seen, self._size), record, what="fine passes")

    def fits(self, size: int) -> bool:
        """Whether a window of so many positions can be passed over here."""
        return 0 < size <= self._window and self._graphs.records

    def __call__(self, seen: Tensor, book: int) -> Tensor:
        """seen (T, codebooks) -> hidden states (T, C) for predicting `book`."""
        size = len(seen)
        assert self.fits(size)
        self._seen[:size] = seen
        full = size == self._window
        if not full:
            self._size.fill_(size)
        (x,) = self._graphs.step((book, full), lambda: (self._body(book, full),))
        return x[:size]

    def _body(self, book: int, full: bool) -> Tensor:
        return self._made(self._seen, book, attend_all if full else self._attend_known())

    def _attend_known(self) -> Attend:
        """Every position sees those that are of the window, and none of what fills it up."""
        columns = torch.arange(self._window, device=self._size.device)
        none = torch.zeros((), device=self._size.device, dtype=self._dtype)
        hidden = none.masked_fill(columns >= self._size, -torch.inf)
        mask = hidden.expand(self._window, self._window)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return y[0].transpose(0, 1).reshape(self._window, -1)

        return attend
