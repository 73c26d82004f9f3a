"""Threads that lend a hand with a piece of work that whoever is there divides among themselves.

The work is a compiled function that holds no lock and takes its pieces from a common count: see
`int8_tiles`. Who calls does not wait for helpers, which may come late and find nothing to do.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

_MOST_THREADS = 8  # before that many, memory gives out no more


class Helpers:
    """As many as torch's threads, less the one that calls."""

    def __init__(self) -> None:
        self._helpers: list[_Helper] = []

    def run(
        self, work: Callable[..., None], args: tuple[Any, ...], own: Callable[[int], Any]
    ) -> None:
        """work(*args, own(thread)) here, which is thread 0, and in each helper that is free.

        Raises what a helper met with in an earlier call.
        """
        others = min(torch.get_num_threads(), _MOST_THREADS) - 1
        while len(self._helpers) < others:
            self._helpers.append(_Helper())
        for thread, helper in enumerate(self._helpers[:others], 1):
            helper.help(work, *args, own(thread))
        work(*args, own(0))


class _Helper:
    """A thread that lends a hand where it is free in time."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "decode")
        self._waiting: deque[Future[None]] = deque()

    def help(self, work: Callable[..., None], *args: Any) -> None:
        """Begin as soon as the last one is over; not at all when one waits for that already.

        Raises what one that is over failed with.
        """
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft().result()
        if len(self._waiting) < 2:
            self._waiting.append(self._pool.submit(work, *args))
