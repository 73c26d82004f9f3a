"""How threads share the work of one call of a compiled function.

They take pieces of it from a common count and wait for pieces that were taken, never for a
thread: one that was put aside holds up nobody.
"""

import os
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from synth.cpu_arithmetic import OPTIONS

LINE = 64  # bytes that cores pass to each other at once


def _take_number(typingctx, address, amount):
    """Add to the number at an address that threads share; returns what it was."""

    def codegen(context, builder, signature, args):
        place = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", place, args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


take: Any = intrinsic(_take_number)

if hasattr(os, "sched_yield"):
    _let_others = types.ExternalFunction("sched_yield", types.int32())
else:

    @njit
    def _let_others():
        return 0


@njit(**OPTIONS)
def finish(counter, total, count):
    """Say that `count` pieces of work are done; wait until all `total` are, where it is 0."""
    done = take(counter + LINE, count)
    turns = 0
    while count == 0 and done < total:
        turns += 1
        if turns > 100:
            _let_others()
        done = take(counter + LINE, 0)


def counters(count: int) -> np.ndarray:
    """What threads share to divide so many lots of work among them: two numbers a lot."""
    return np.zeros((count, 2, LINE // 8), np.int64)
