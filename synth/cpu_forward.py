"""Many positions of one sequence at once over packed weights, as one compiled function.

What `cpu_kernels` is to a step, this is to a prompt and to a window of the fine stage: a block of
rows is normed, rounded, multiplied, attended and added without leaving the function, so that what a
block works on stays in a core's cache. Rounds as packed `Linear`s do; how rows look back is
`cpu_attention`'s.

A block of a layer needs the keys and values of all blocks of that layer and nothing else, so there
is one place a layer where threads wait for each other.

Shape letters: T positions, C width, L layers, H heads, D head size, S slots, B rows of a block.
"""

from typing import Any

import numpy as np
from numba import njit

from synth import cpu_arithmetic, cpu_attention, cpu_threads, cpu_tiles
from synth.compiled import kept
from synth.cpu_arithmetic import (
    OPTIONS,
    bytes_of,
    gelu_all,
    norm_and_round,
    round_row,
)
from synth.cpu_attention import DTYPE, PAIR, ROWS, G, attend, place, recall
from synth.cpu_kernels import PADDING, zeros
from synth.cpu_threads import LINE, counters, finish, take
from synth.cpu_tiles import LANES, products

BLOCK = 64 if LANES == 16 else 48  # rows; a multiple of ROWS

_products_2, _products_1 = products(ROWS, 2), products(ROWS, 1)


@njit(**OPTIONS)
def _tile(pair, whole, first, most, weight, scale, shift, column, out, row, left, add):
    """A tile of rows from `first` on times one or, where `pair`, two groups of weights.

    What they are of starts at `column` of scale and shift; out has as many from (row, left) on.
    """
    size, numbers, weight_bytes = whole.shape[1], 4 // whole.itemsize, bytes_of(whole)
    x_row, words = size * whole.itemsize, size // numbers
    word, group = weight_bytes * numbers * LANES, weight_bytes * LANES * size
    x = whole.ctypes.data + first * x_row
    of, by = scale.ctypes.data + 4 * column, shift.ctypes.data + 4 * column
    m, line = most.ctypes.data + 4 * first, out.strides[0]
    to = out.ctypes.data + row * line + 4 * left
    if pair:
        _products_2(whole, x, x_row, weight, word, group, words, of, by, m, to, line, add)
    else:
        _products_1(whole, x, x_row, weight, word, group, words, of, by, m, to, line, add)


@njit(**OPTIONS)
def _multiply(whole, most, weights, scale, shift, out, add, spare):
    """out (R, O) = or += products of rounded rows whole (B, K) and packed weights at an address.

    O is a multiple of LANES; rows of `whole` past R are multiplied for nothing. scale (O,), shift
    (O,), most (B,): see `cpu_kernels`; spare (ROWS, PAIR) float32 to work in.
    """
    rows, outputs = out.shape
    for column in range(0, outputs, PAIR):
        weight = weights + column * whole.shape[1] * bytes_of(whole)
        right = min(column + PAIR, outputs)
        pair = right == column + PAIR
        for r in range(0, rows, ROWS):
            if r + ROWS <= rows:
                _tile(pair, whole, r, most, weight, scale, shift, column, out, r, column, add)
                continue
            for i in range(r, rows):
                for j in range(column, right):
                    spare[i - r, j - column] = out[i, j]
            _tile(pair, whole, r, most, weight, scale, shift, column, spare, 0, 0, add)
            for i in range(r, rows):
                for j in range(column, right):
                    out[i, j] = spare[i - r, j - column]


@kept(cpu_arithmetic, cpu_attention, cpu_threads, cpu_tiles)
def forward(
    x, start, needed, norms, last_norm, weights, scales, shifts, cached, slot, causal, shared,
    counter, own,
):  # fmt: skip
    """Run rows x (T, C) float32, overwritten, through all blocks and the last norm.

    They stand at positions from `start` on of a slot, whose cache is read before and written there;
    where not `causal` all see each other, start is 0 and `cached` has no positions. Rows before
    `needed`, whose result is nobody's, leave the last layer out but for its keys and values.
    norms (L, 2, 2, C) and last_norm (2, C): weights and biases; weights, scales, shifts: see
    `cpu_kernels.decode`; cached: keys and values (L, S, H, T', D) float32 or uint16. shared,
    counter (`pieces`), own: see the functions of these names; any number of threads may run one
    call, as there.
    """
    rows = len(x)
    cached_keys, cached_values = cached
    queries, keys, values = shared
    (
        whole,
        inner_whole,
        attended_whole,
        inner,
        attended,
        most,
        buffer,
        gated,
        scores,
        shares,
        found,
        seen,
    ) = own
    layers, width = len(norms), x.shape[1]
    blocks, old = (rows + BLOCK - 1) // BLOCK, (start + BLOCK - 1) // BLOCK
    begin = start if causal else rows
    at = counter.ctypes.data
    for layer in range(-1, layers):
        # Later blocks look back on more, so they come first; what is only copied comes last.
        lots = blocks + (old if layer + 1 < layers else 0)
        done, lot = 0, take(at, 1)
        while lot < lots:
            if lot >= blocks:
                first = (lot - blocks) * BLOCK
                recall(
                    cached_keys[layer + 1, slot],
                    cached_values[layer + 1, slot],
                    first,
                    min(first + BLOCK, start),
                    keys[(layer + 1) % 2],
                    values[(layer + 1) % 2],
                )
                done += 1
                lot = take(at, 1)
                continue
            first = (blocks - 1 - lot) * BLOCK
            last = min(first + BLOCK, rows)
            count, row = last - first, x[first:last]
            if layer >= 0 and (layer + 1 < layers or last > needed):
                attend(
                    queries,
                    keys[layer % 2],
                    values[layer % 2],
                    first,
                    count,
                    begin,
                    causal,
                    scores,
                    shares,
                    found,
                    seen,
                    attended,
                )
                scale = scales[1][layer], scales[2][layer], scales[3][layer]
                shift = shifts[1][layer], shifts[2][layer], shifts[3][layer]
                for r in range(count):
                    most[r] = round_row(attended[r], attended_whole[r])
                w = weights[layer, 1]
                _multiply(attended_whole, most, w, scale[0], shift[0], row, True, found)
                norm_and_round(row, norms[layer, 1, 0], norms[layer, 1, 1], buffer, whole, most)
                hidden = inner[:count]
                _multiply(whole, most, weights[layer, 2], scale[1], shift[1], hidden, False, found)
                for r in range(count):
                    gelu_all(hidden[r], gated)
                    most[r] = round_row(gated, inner_whole[r])
                _multiply(
                    inner_whole, most, weights[layer, 3], scale[2], shift[2], row, True, found
                )
            if layer + 1 < layers:
                following = layer + 1
                norm = norms[following, 0]
                norm_and_round(row, norm[0], norm[1], buffer, whole, most)
                qkv = inner[:count, : 3 * width]
                _multiply(
                    whole,
                    most,
                    weights[following, 0],
                    scales[0][following],
                    shifts[0][following],
                    qkv,
                    False,
                    found,
                )
                place(
                    inner,  # whose rows Numba knows to be without gaps
                    count,
                    first,
                    start + first,
                    cached_keys[following, slot],
                    cached_values[following, slot],
                    queries,
                    keys[following % 2],
                    values[following % 2],
                )
            elif last > needed:
                for r in range(count):
                    cpu_arithmetic.norm(row[r], last_norm[0], last_norm[1], row[r])
            done += 1
            lot = take(at, 1)
        finish(at, lots, done)
        finish(at, lots, 0)
        at += 2 * LINE


@kept(cpu_arithmetic, cpu_attention, cpu_threads, cpu_tiles)
def repeat_product(whole, most, weights, scale, shift, times, counter, own):
    """Make the product of a block `times` times, for whoever wants to know how long that takes.

    own: out (B, O) and spare, see `_multiply`, of each thread; counter: `pieces`.
    """
    out, spare = own
    at, done = counter.ctypes.data, 0
    while take(at, 1) < times:
        _multiply(whole, most, weights, scale, shift, out, False, spare)
        done += 1
    finish(at, times, done)
    finish(at, times, 0)


def fits(width: int, head_size: int) -> bool:
    """Whether products and heads are whole tiles."""
    return width % PADDING == 0 and head_size % LANES == 0


def pieces(layers: int) -> np.ndarray:
    """What the threads of one call share to divide it among them."""
    return counters(layers + 1)


def shared(rows: int, start: int, heads: int, size: int) -> tuple[np.ndarray, ...]:
    """What the threads of one call look at: queries, and keys and values of two layers."""
    room = -(-(start + rows) // PAIR) * PAIR
    return (
        np.zeros((-(-rows // ROWS) * ROWS, heads * size), DTYPE),
        np.zeros((2, heads, room // PAIR, size // G, PAIR, G), DTYPE),
        np.zeros((2, heads, size // LANES, room // G, LANES, G), DTYPE),
    )


def own(room: int, width: int, dtype: Any, attended_dtype: Any) -> tuple[np.ndarray, ...]:
    """What each thread of a call works in by itself; room: positions, a multiple of PAIR.

    dtype: what rows are rounded to; attended_dtype: those that attention gives.
    """
    return (
        zeros(BLOCK, width, dtype),
        zeros(BLOCK, 4 * width, dtype),
        zeros(BLOCK, width, attended_dtype),
        np.empty((BLOCK, 4 * width), np.float32),
        np.empty((BLOCK, width), np.float32),
        np.empty(BLOCK, np.float32),
        np.empty(width, np.float32),
        np.empty(4 * width, np.float32),
        np.empty((BLOCK, room), np.float32),
        np.zeros((BLOCK, room), DTYPE),
        np.empty((ROWS, PAIR), np.float32),
        np.empty(BLOCK, np.float32),
    )
