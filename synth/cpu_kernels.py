"""One decode step over packed weights as one compiled function, for x86 processors with AVX2.

A step of one row does little per weight it reads, so it takes as long as the memory takes to be
read, if nothing else gets in the way. Here a row is normed, rounded, multiplied, attended and added
without leaving the function, and several rows share one pass over the weights. Sums are whole
numbers, or taken in one order, and every row is otherwise worked on by itself, so no row depends
on its neighbours.

Threads take pieces of a step from a common count and wait for pieces that were taken, never for a
thread. A step has sixty places where all must have been done; with threads that meet there (Numba's
own parallel loops) a step took a hundred times as long on a machine that was busy otherwise.

Beside weights of 8 bits rows are rounded to 8 bits, for which newer processors have an instruction
(VNNI), or to 16, where weights become 16 bits on their way from memory; a step of one row waits for
memory either way. Beside bfloat16's they are bfloat16, and sums are floats, taken in one order.

Compiled by Numba when first needed and kept on disk; the products are the processor's own
instructions, which Numba has no name for. Knows arrays and addresses, no transformer.

Shape letters: R rows, C width, L layers, S slots, H heads, T positions, D head size, K inputs of a
product, padded to a multiple of `PADDING`.
"""

import math
from typing import Any

import numpy as np
from numba import njit

from synth import cpu_arithmetic, cpu_threads, cpu_tiles
from synth.compiled import kept
from synth.cpu_arithmetic import (
    OPTIONS,
    attend_head,
    bytes_of,
    gelu_all,
    norm_and_round,
    round_row,
    steps_of,
    zero_of,
)
from synth.cpu_threads import LINE, counters, finish, take
from synth.cpu_tiles import HAS_VNNI, LANES, products

# What rows are rounded to beside 8 bit weights: 8 bits for the fastest products, where the
# processor has them, or 16, with which next to nothing is lost.
WIDE: Any = np.int16
NARROW: Any = np.uint8 if HAS_VNNI else WIDE
HALF: Any = np.uint16  # bfloat16's bits, beside weights that are the same
PADDING = 16  # numbers a turn of the innermost loop takes at most
_ONE = 0x3F80  # as bfloat16
_SHARE = 1 << 16  # bytes of weights a thread takes at a time

_products_1 = products(1, turns=4)
_products_4 = products(4)
_products_8 = products(8)


@njit(**OPTIONS)
def _group(whole, most, weight, scale, shift, out, left, add):
    """LANES columns of out from `left` on; scale, shift and out have as many from there."""
    rows, size = whole.shape
    x, x_row, numbers = whole.ctypes.data, size * whole.itemsize, 4 // whole.itemsize
    word, words, row = bytes_of(whole) * numbers * LANES, size // numbers, out.strides[0]
    of, by, times = scale.ctypes.data + 4 * left, shift.ctypes.data + 4 * left, most.ctypes.data
    to, r = out.ctypes.data + 4 * left, 0
    while r < rows:
        a, m, y = x + r * x_row, times + 4 * r, to + r * row
        if r + 8 <= rows:
            count = 8
            _products_8(whole, a, x_row, weight, word, 0, words, of, by, m, y, row, add)
        elif r + 4 <= rows:
            count = 4
            _products_4(whole, a, x_row, weight, word, 0, words, of, by, m, y, row, add)
        else:
            count = 1
            _products_1(whole, a, x_row, weight, word, 0, words, of, by, m, y, row, add)
        r += count


@njit(**OPTIONS)
def _last_group(whole, most, weight, scale, shift, out, left, add):
    """The same for columns that are fewer than LANES."""
    columns = scale.size - left
    of, by = np.zeros(LANES, np.float32), np.zeros(LANES, np.int32)
    of[:columns], by[:columns] = scale[left:], shift[left:]
    found = np.zeros((len(whole), LANES), np.float32)
    if add:
        found[:, :columns] = out[:, left:]
    _group(whole, most, weight, of, by, found, 0, add)
    out[:, left:] = found[:, :columns]


@njit(**OPTIONS)
def _multiply(whole, most, weights, scale, shift, out, add, counter):
    """out (R, out) = or += the products of rounded rows (R, K) and packed weights at an address.

    scale (out,): of an output's weights and of x's step; shift (out,): what 0 is in x times their
    sum; most (R,): what `round_row` gave. counter: address of what threads share of this piece of
    work.
    """
    size = bytes_of(whole) * LANES * whole.shape[1]
    groups = (scale.size + LANES - 1) // LANES
    share = max(1, _SHARE // size)
    begin = take(counter, share)
    while begin < groups:
        end = min(begin + share, groups)
        for group in range(begin, end):
            weight, left = weights + group * size, group * LANES
            if left + LANES <= scale.size:
                _group(whole, most, weight, scale, shift, out, left, add)
            else:
                _last_group(whole, most, weight, scale, shift, out, left, add)
        finish(counter, groups, end - begin)
        begin = take(counter, share)
    finish(counter, groups, 0)


@njit(**OPTIONS)
def _attend(qkv, keys, values, slots, positions, scores, out, counter):
    """Write each row's keys and values to its slot and position, and look back on all so far.

    qkv (R, 3C); keys, values (S, H, T, D); scores (R * H, T) to work in; out (R, C).
    """
    heads, size = keys.shape[1], keys.shape[3]
    width = heads * size
    down = np.float32(1.0 / math.sqrt(size))
    at = take(counter, 1)
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
        finish(counter, slots.size * heads, 1)
        at = take(counter, 1)
    finish(counter, slots.size * heads, 0)


@kept(cpu_arithmetic, cpu_threads, cpu_tiles)
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
    counter,
    own,
):
    """Run rows x (R, C) float32, overwritten, through all blocks and a head into out (R, V).

    norms (L, 2, 2, C) and last_norm (2, C): weights and biases; weights (L, 4) int64: addresses of
    the packed weights of c_attn, attn_proj, c_fc, mlp_proj; scales and shifts: tuples of four
    (L, out); head: address, scale, shift. keys, values (L, S, H, T, D) float32 or uint16
    (bfloat16's bits), written at `positions` (R,) of `slots` (R,). shared, counter (`pieces`), own:
    see the functions of these names.

    Any number of threads may run one step, each with an `own` of its own and everything else the
    same: whoever is there takes the next piece of work, and nobody waits for a thread that has
    not taken one. A thread that comes late finds all taken and goes; what it read that others had
    overwritten meanwhile is of no use to it, and is not used. `out` is whole when any returns.
    """
    rows, width = x.shape
    qkv, attended, inner, scores = shared
    whole, inner_whole, attended_whole, most, buffer, gated = own
    at, line = counter.ctypes.data, 2 * LINE
    for layer in range(len(norms)):
        scale = scales[0][layer], scales[1][layer], scales[2][layer], scales[3][layer]
        shift = shifts[0][layer], shifts[1][layer], shifts[2][layer], shifts[3][layer]
        norm_and_round(x, norms[layer, 0, 0], norms[layer, 0, 1], buffer, whole, most)
        _multiply(whole, most, weights[layer, 0], scale[0], shift[0], qkv, False, at)
        _attend(qkv, keys[layer], values[layer], slots, positions, scores, attended, at + line)
        for r in range(rows):
            most[r] = round_row(attended[r], attended_whole[r])
        w = weights[layer, 1]
        _multiply(attended_whole, most, w, scale[1], shift[1], x, True, at + 2 * line)
        norm_and_round(x, norms[layer, 1, 0], norms[layer, 1, 1], buffer, whole, most)
        _multiply(whole, most, weights[layer, 2], scale[2], shift[2], inner, False, at + 3 * line)
        for r in range(rows):
            gelu_all(inner[r], gated)
            most[r] = round_row(gated, inner_whole[r])
        _multiply(inner_whole, most, weights[layer, 3], scale[3], shift[3], x, True, at + 4 * line)
        at += 5 * line
    norm_and_round(x, last_norm[0], last_norm[1], buffer, whole, most)
    _multiply(whole, most, head[0], head[1], head[2], out, False, at)


@kept(cpu_arithmetic, cpu_threads, cpu_tiles)
def product(x, whole, weights, scale, shift, out):
    """out (R, O) = x (R, C) float32 times packed weights at an address; whole: `zeros`."""
    rows = len(x)
    most, counter = np.empty(rows, np.float32), np.zeros((2, LINE // 8), np.int64)
    for r in range(rows):
        most[r] = round_row(x[r], whole[r])
    _multiply(whole, most, weights, scale, shift, out, False, counter.ctypes.data)


def try_out(*dtypes: Any) -> None:
    """Compile products of rows of those (WIDE and NARROW), make them once; raises what the compiler
    does.
    """
    x, out = np.ones((1, PADDING), np.float32), np.empty((1, 1), np.float32)
    for dtype in dtypes or (NARROW, WIDE):
        whole = zeros(1, PADDING, dtype)
        one = np.full((1, PADDING), _ONE, HALF) if dtype is HALF else np.ones((1, PADDING), np.int8)
        weights = pack(one, dtype)
        scale = np.full(1, 1 / steps_of(whole), np.float32)
        shift = np.full(1, zero_of(whole) * PADDING, np.int32)
        product(x, whole, weights.ctypes.data, scale, shift, out)
        if abs(out[0, 0] - PADDING) > 0.01:
            raise RuntimeError(f"a product that is {PADDING} came out as {out[0, 0]}")


def pieces(layers: int) -> np.ndarray:
    """What the threads of one step share to divide it among them."""
    return counters(5 * layers + 1)


def shared(rows: int, width: int, heads: int, context: int) -> tuple[np.ndarray, ...]:
    """What the threads of a step write in turn, for so many rows."""
    return (
        np.empty((rows, 3 * width), np.float32),
        np.empty((rows, width), np.float32),
        np.empty((rows, 4 * width), np.float32),
        np.empty((rows * heads, context), np.float32),
    )


def own(rows: int, width: int, dtype: Any, attended_dtype: Any) -> tuple[np.ndarray, ...]:
    """What each thread of a step works in by itself, for so many rows, rounded to `dtype`, those
    that attention gives to `attended_dtype`.
    """
    return (
        zeros(rows, width, dtype),
        zeros(rows, 4 * width, dtype),
        zeros(rows, width, attended_dtype),
        np.empty(rows, np.float32),
        np.empty(width, np.float32),
        np.empty(4 * width, np.float32),
    )


def padded(size: int) -> int:
    """Numbers that a rounded row of so many has room for."""
    return -(-size // PADDING) * PADDING


def zeros(rows: int, size: int, dtype: Any) -> np.ndarray:
    """Rounded rows (R, K), WIDE, NARROW or HALF, of zeros."""
    whole = np.empty((rows, padded(size)), dtype)
    whole.fill(zero_of(whole))
    return whole


def pack(weight: np.ndarray, dtype: Any) -> np.ndarray:
    """(out, in) int8, or bfloat16's bits -> (groups, K / G, lanes, G): as many outputs beside each
    other as sums fit.

    G: as many numbers as rows of that dtype have in 4 bytes. What is missing to whole groups and to
    K is zero.
    """
    out, size = weight.shape
    numbers = 4 // np.dtype(dtype).itemsize
    whole = np.zeros((-(-out // LANES) * LANES, padded(size)), weight.dtype)
    whole[:out, :size] = weight
    whole = whole.reshape(-1, LANES, padded(size) // numbers, numbers)
    return np.ascontiguousarray(whole.swapaxes(1, 2))
