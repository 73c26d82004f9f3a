"""Threads that lend a hand with a piece of work that whoever is there divides among themselves.

The work is a compiled function that holds no lock and takes its pieces from a common count: see
`cpu_threads`. Who calls does not wait for helpers, which may come late and find nothing to do, or
not be had at all.
"""

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

log = logging.getLogger(__name__)


class Helpers:
    """As many as torch's threads, `most` at most, less the one that calls."""

    def __init__(self, name: str, most: int) -> None:
        self._name, self._most = name, most
        self._helpers: list[_Helper] = []

    def run(
        self, work: Callable[..., None], args: tuple[Any, ...], own: Callable[[int], Any]
    ) -> None:
        """work(*args, own(thread)) here, which is thread 0, and in each helper that is free.

        Raises what a helper met with in an earlier call, and has then begun nothing.
        """
        others = min(torch.get_num_threads(), self._most) - 1
        while len(self._helpers) < others:
            self._helpers.append(_Helper(self._name))
        for helper in self._helpers:
            helper.settle()
        for thread, helper in enumerate(self._helpers[:others], 1):
            if helper.is_free:
                helper.help(work, *args, own(thread))
        work(*args, own(0))


class _Helper:
    """A thread that lends a hand where it is free in time."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, name)
        self._waiting: deque[Future[None]] = deque()

    def settle(self) -> None:
        """Forget what is over; raises what it failed with."""
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft().result()

    @property
    def is_free(self) -> bool:
        """Whether it could begin as soon as what it does now is over: no other work waits."""
        return len(self._waiting) < 2

    def help(self, work: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # no thread is to be had: others do the work
            self._waiting.append(self._pool.submit(work, *args))


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Inside, torch's operations have this thread only: waking others for a few thousand numbers,
    one operation after the other, takes several times as long as the work (a fifth of a
    microsecond for this).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def tried(call: Callable[[], Any]) -> None:
    """Compile by a first call; raises what the compiler does."""
    try:
        call()
    except OSError as error:  # compiled, but not kept: the second call finds it
        log.info("What was compiled could not be kept for the next start: %s", error)
        call()


def compiles(call: Callable[[], Any], what: str) -> bool:
    """Whether `what` can be compiled here, found out by a first call; the log says where not."""
    try:
        tried(call)
    except Exception as error:  # a compiler fails in its own ways: only speed is lost
        log.warning(
            "Numba could not compile %s (%s): it is made one product at a time, which takes "
            "longer.",
            what,
            error,
        )
        return False
    return True
