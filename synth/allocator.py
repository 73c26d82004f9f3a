"""How glibc's malloc is told to use memory: what loading needs for a while is to leave no holes.

Weights are made from larger copies of themselves, a hundred times over. malloc keeps what is freed
between them, and clips then touch one hole after the other. Elsewhere than with glibc nothing is
done.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_APART = 1 << 17  # bytes from which each piece is the system's own, and goes back to it when freed
# What both come to be by themselves after a large piece was freed: pieces that are made over and
# over, as in every layer of a prompt, are not to be asked of the system each time.
_MOST_APART, _MOST_KEPT = 32 << 20, 64 << 20


@contextmanager
def loading() -> Iterator[None]:
    """Inside, memory that is freed goes back to the system at once, or does so at the end."""
    libc = _libc()
    if libc is None:
        yield
        return
    libc.mallopt(_MMAP_THRESHOLD, _APART)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_THRESHOLD, _MOST_APART)
        libc.mallopt(_TRIM_THRESHOLD, _MOST_KEPT)
        libc.malloc_trim(0)


def give_back_memory() -> None:
    """Let the allocator return what nobody uses."""
    if libc := _libc():
        libc.malloc_trim(0)


def _libc() -> Any:
    try:
        libc = ctypes.CDLL("libc.so.6")
        return libc if libc.mallopt and libc.malloc_trim else None
    except (OSError, AttributeError):
        return None
