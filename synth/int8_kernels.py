"""One decode step over 8 bit weights as one compiled function, for processors with VNNI.

A step of one row does little per weight it reads, so it takes as long as the memory takes to be
read, if nothing else gets in the way. Here a row is normed, rounded, multiplied, attended and added
without leaving the function, and several rows share one pass over the weights. Sums of 8 bit
products are whole numbers and every row is otherwise worked on by itself, so no row depends on its
neighbours.

Threads take pieces of a step from a common count and wait for pieces that were taken, never for a
thread. A step has sixty places where all must have been done; with threads that meet there (Numba's
own parallel loops) a step took a hundred times as long on a machine that was busy otherwise.

Compiled by Numba when first needed and kept on disk; the products are the processor's own
instruction, which Numba has no name for. Knows arrays and addresses, no transformer.

Shape letters: R rows, C width, L layers, S slots, H heads, T positions, D head size, K inputs of a
product, padded to a multiple of `PADDING`.
"""

import inspect
import logging
import math
import os
from collections.abc import Callable
from hashlib import sha256
from types import ModuleType
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import config, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from synth import int8_arithmetic
from synth.int8_arithmetic import (
    OPTIONS,
    X_ZERO,
    attend_head,
    gelu_all,
    norm_and_round,
    round_row,
    scale_sums,
)

log = logging.getLogger(__name__)

PADDING = 16  # bytes a turn of the innermost loop takes at most
_LINE = 64  # bytes that cores pass to each other at once
_SHARE = 1 << 16  # bytes of weights a thread takes at a time


def lanes() -> int:
    """How many 32 bit sums the processor's instruction for 8 bit products makes; 0: it has none."""
    features = binding.get_host_cpu_features()
    if getattr(config, "DISABLE_JIT", False):
        return 0
    if features.get("avx512vnni"):
        return 16
    return 8 if features.get("avxvnni") else 0


LANES = lanes()


def _tile(rows: int, turns: int) -> Any:
    """A function of some rows of uint8 and one group of weights: their products as 32 bit sums.

    It takes addresses and sizes: x, the bytes from one row of it to the next, the group of weights
    (see `pack`), K, and where rows * lanes sums go. A number of x meets a whole vector of weights,
    one for each of as many outputs. `turns` of the loop are unrolled, so that a sum is not waited
    for by the next.
    """

    def function(typingctx, x, stride, weights, size, out):
        def codegen(context, builder, signature, args):
            _tile_ir(builder, rows, turns, *args)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), codegen

    function.__name__ = f"_tile_{rows}"
    return intrinsic(function)


def _tile_ir(builder: ir.IRBuilder, rows: int, turns: int, x, stride, weights, size, out) -> None:
    width = lanes()
    word, index = ir.IntType(32), ir.IntType(64)
    vector = ir.VectorType(word, width)
    nowhere = ir.Constant(vector, ir.Undefined)
    multiply = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(vector, [vector, vector, vector]),
        f"llvm.x86.avx512.vpdpbusd.{32 * width}",
    )

    def number(value: int) -> ir.Constant:
        return ir.Constant(index, value)

    def at(address, kind):
        return builder.inttoptr(address, kind.as_pointer())

    starts = [builder.add(x, builder.mul(stride, number(row))) for row in range(rows)]
    before = builder.block
    loop, done = builder.append_basic_block("loop"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    place = builder.phi(index)
    place.add_incoming(number(0), before)
    sums = [[builder.phi(vector) for _ in range(rows)] for _ in range(turns)]
    for turn in range(turns):
        here = builder.add(place, number(4 * turn))
        lie = builder.add(weights, builder.mul(here, number(width)))
        weight = builder.load(at(lie, vector), align=1)
        for row in range(rows):
            four = builder.load(at(builder.add(starts[row], here), word), align=1)
            alone = builder.insert_element(nowhere, four, ir.Constant(word, 0))
            spread = builder.shuffle_vector(alone, nowhere, ir.Constant(vector, [0] * width))
            total = sums[turn][row]
            total.add_incoming(ir.Constant(vector, [0] * width), before)
            total.add_incoming(builder.call(multiply, [total, spread, weight]), loop)
    following = builder.add(place, number(4 * turns))
    place.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, size), loop, done)
    builder.position_at_end(done)
    for row in range(rows):
        total = sums[0][row].incomings[1][0]
        for turn in range(1, turns):
            total = builder.add(total, sums[turn][row].incomings[1][0])
        offset = builder.add(out, number(4 * width * row))
        builder.store(total, at(offset, vector), align=4)


_tile_1, _tile_4, _tile_8 = _tile(1, 4), _tile(4, 1), _tile(8, 1)


def _take_number(typingctx, address, amount):
    """Add to the number at an address that threads share; returns what it was."""

    def codegen(context, builder, signature, args):
        place = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", place, args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


_take: Any = intrinsic(_take_number)

if hasattr(os, "sched_yield"):
    _let_others = types.ExternalFunction("sched_yield", types.int32())
else:

    @njit
    def _let_others():
        return 0


@njit(**OPTIONS)
def _finish(counter, total, count):
    """Say that `count` pieces of work are done; wait until all `total` are, where it is 0."""
    done = _take(counter + _LINE, count)
    turns = 0
    while count == 0 and done < total:
        turns += 1
        if turns > 100:
            _let_others()
        done = _take(counter + _LINE, 0)


@njit(**OPTIONS)
def _multiply(whole, most, weights, scale, shift, out, add, counter):
    """out (R, out) = or += the products of rounded rows (R, K) and packed weights at an address.

    scale (out,): of an output's weights and of x's step; shift (out,): 128 times their sum.
    counter: address of what threads share of this piece of work.
    """
    rows, size = whole.shape
    first = whole.ctypes.data
    groups = (scale.size + LANES - 1) // LANES
    share = max(1, _SHARE // (LANES * size))
    sums = np.empty((8, LANES), np.int32)
    begin = _take(counter, share)
    while begin < groups:
        end = min(begin + share, groups)
        for group in range(begin, end):
            weight = weights + group * LANES * size
            left, right = group * LANES, min((group + 1) * LANES, scale.size)
            r = 0
            while r < rows:
                x = first + r * size
                if r + 8 <= rows:
                    count = 8
                    _tile_8(x, size, weight, size, sums.ctypes.data)
                elif r + 4 <= rows:
                    count = 4
                    _tile_4(x, size, weight, size, sums.ctypes.data)
                else:
                    count = 1
                    _tile_1(x, size, weight, size, sums.ctypes.data)
                for k in range(count):
                    scale_sums(
                        sums[k],
                        scale[left:right],
                        shift[left:right],
                        most[r + k],
                        out[r + k, left:right],
                        add,
                    )
                r += count
        _finish(counter, groups, end - begin)
        begin = _take(counter, share)
    _finish(counter, groups, 0)


@njit(**OPTIONS)
def _attend(qkv, keys, values, slots, positions, scores, out, counter):
    """Write each row's keys and values to its slot and position, and look back on all so far.

    qkv (R, 3C); keys, values (S, H, T, D); scores (R * H, T) to work in; out (R, C).
    """
    heads, size = keys.shape[1], keys.shape[3]
    width = heads * size
    down = np.float32(1.0 / math.sqrt(size))
    at = _take(counter, 1)
    while at < slots.size * heads:
        r, h = at // heads, at % heads
        live, base = positions[r] + 1, h * size
        attend_head(
            qkv[r, base : base + size],
            qkv[r, width + base : width + base + size],
            qkv[r, 2 * width + base : 2 * width + base + size],
            keys[slots[r], h, :live],
            values[slots[r], h, :live],
            scores[at, :live],
            down,
            out[r, base : base + size],
        )
        _finish(counter, slots.size * heads, 1)
        at = _take(counter, 1)
    _finish(counter, slots.size * heads, 0)


def _kept(*others: ModuleType) -> Callable[[Any], Any]:
    """Compile a function and keep what was made on disk, which is of `others`' text as well.

    Numba makes a function anew where the file that it is in has changed, and goes on with the old
    one where only what it calls in another file has. So it is kept by a name with that text in it.
    Where there is no text to go by, or no place that can be written to, nothing is kept.
    """

    def compiled(function: Any) -> Any:
        try:
            text = "".join(map(inspect.getsource, others))
            function.__qualname__ += "_" + sha256(text.encode()).hexdigest()[:16]
            return njit(cache=True, **OPTIONS)(function)
        except (OSError, RuntimeError) as error:
            log.info("A decode step is compiled at each start, for it cannot be kept: %s", error)
            return njit(**OPTIONS)(function)

    return compiled


@_kept(int8_arithmetic)
def decode(
    x,
    norms,
    last_norm,
    weights,
    scales,
    shifts,
    keys,
    values,
    slots,
    positions,
    head,
    out,
    shared,
    counters,
    own,
):
    """Run rows x (R, C) float32, overwritten, through all blocks and a head into out (R, V).

    norms (L, 2, C) and last_norm (C,); weights (L, 4) int64: addresses of the packed weights of
    c_attn, attn_proj, c_fc, mlp_proj; scales and shifts: tuples of four (L, out); head: address,
    scale, shift. keys, values (L, S, H, T, D) float32 or uint16 (bfloat16's bits), written at
    `positions` (R,) of `slots` (R,). shared, counters, own: see the functions of these names.

    Any number of threads may run one step, each with an `own` of its own and everything else the
    same: whoever is there takes the next piece of work, and nobody waits for a thread that has
    not taken one. A thread that comes late finds all taken and goes; what it read that others had
    overwritten meanwhile is of no use to it, and is not used. `out` is whole when any returns.
    """
    rows, width = x.shape
    qkv, attended, inner, scores = shared
    narrow, wide, most, buffer, gated = own
    at, line = counters.ctypes.data, 2 * _LINE
    for layer in range(len(norms)):
        scale = scales[0][layer], scales[1][layer], scales[2][layer], scales[3][layer]
        shift = shifts[0][layer], shifts[1][layer], shifts[2][layer], shifts[3][layer]
        norm_and_round(x, norms[layer, 0], buffer, narrow, most)
        _multiply(narrow, most, weights[layer, 0], scale[0], shift[0], qkv, False, at)
        _attend(qkv, keys[layer], values[layer], slots, positions, scores, attended, at + line)
        for r in range(rows):
            most[r] = round_row(attended[r], narrow[r])
        _multiply(narrow, most, weights[layer, 1], scale[1], shift[1], x, True, at + 2 * line)
        norm_and_round(x, norms[layer, 1], buffer, narrow, most)
        _multiply(narrow, most, weights[layer, 2], scale[2], shift[2], inner, False, at + 3 * line)
        for r in range(rows):
            gelu_all(inner[r], gated)
            most[r] = round_row(gated, wide[r])
        _multiply(wide, most, weights[layer, 3], scale[3], shift[3], x, True, at + 4 * line)
        at += 5 * line
    norm_and_round(x, last_norm, buffer, narrow, most)
    _multiply(narrow, most, head[0], head[1], head[2], out, False, at)


def counters(layers: int) -> np.ndarray:
    """What the threads of one step share to divide it among them: two numbers a piece of work."""
    return np.zeros((5 * layers + 1, 2, _LINE // 8), np.int64)


def shared(rows: int, width: int, heads: int, context: int) -> tuple[np.ndarray, ...]:
    """What the threads of a step write in turn, for so many rows."""
    return (
        np.empty((rows, 3 * width), np.float32),
        np.empty((rows, width), np.float32),
        np.empty((rows, 4 * width), np.float32),
        np.empty((rows * heads, context), np.float32),
    )


def own(rows: int, width: int) -> tuple[np.ndarray, ...]:
    """What each thread of a step works in by itself, for so many rows."""
    return (
        np.full((rows, padded(width)), X_ZERO, np.uint8),
        np.full((rows, padded(4 * width)), X_ZERO, np.uint8),
        np.empty(rows, np.float32),
        np.empty(width, np.float32),
        np.empty(4 * width, np.float32),
    )


def padded(size: int) -> int:
    """Bytes a row of x takes for so many numbers."""
    return -(-size // PADDING) * PADDING


def pack(weight: np.ndarray) -> np.ndarray:
    """(out, in) int8 -> (groups, K / 4, lanes, 4): as many outputs beside each other as sums fit.

    What is missing to whole groups and to K is zero.
    """
    out, size = weight.shape
    whole = np.zeros((-(-out // LANES) * LANES, padded(size)), np.int8)
    whole[:out, :size] = weight
    return np.ascontiguousarray(whole.reshape(-1, LANES, padded(size) // 4, 4).swapaxes(1, 2))
