"""Many positions of one sequence at once over 8 bit weights, as one compiled function.

What `int8_kernels` is to a step, this is to a prompt and to a window of the fine stage: a block of
rows is normed, rounded, multiplied, attended and added without leaving the function, so that what a
block works on stays in a core's cache. Rounds as `Linear`s of 8 bits do. Keys and values are copied
into the order that products want; attention multiplies bfloat16 where the processor does that and
adds up in float32, else float32.

A block of a layer needs the keys and values of all blocks of that layer and nothing else, so there
is one place a layer where threads wait for each other.

Shape letters: T positions, C width, L layers, H heads, D head size, S slots, B rows of a block,
G numbers in 4 bytes of what attention multiplies (2 or 1), P positions that there is room for.
"""

import math

import numpy as np
from numba import njit

from synth import int8_arithmetic, int8_tiles
from synth.int8_arithmetic import (
    OPTIONS,
    X_ZERO,
    exp,
    gelu_all,
    larger,
    narrow,
    norm_and_round,
    round_row,
    scale_sums,
    wide,
)
from synth.int8_kernels import PADDING
from synth.int8_tiles import HAS_BF16, LANES, LINE, Kind, counters, finish, kept, take, tile

BLOCK = 64  # rows; a multiple of _ROWS
_ROWS = 8 if LANES == 16 else 4  # of a tile, whose sums fit the processor's registers
_PAIR = 2 * LANES
_COLUMNS = 8 * LANES  # whose sums are scaled together
_KIND = Kind.BF16 if HAS_BF16 else Kind.FLOAT
G = _KIND.value
DTYPE = np.uint16 if HAS_BF16 else np.float32  # of what attention multiplies

_products_2, _products_1 = tile(Kind.INT8, _ROWS, 2), tile(Kind.INT8, _ROWS, 1)
_attention_2, _attention_1 = tile(_KIND, _ROWS, 2), tile(_KIND, _ROWS, 1)


@njit(**OPTIONS)
def _multiply(whole, most, weights, scale, shift, out, add, sums):
    """out (R, O) = or += products of rounded rows whole (B, K) and packed weights at an address.

    O is a multiple of LANES; rows of `whole` past R are multiplied for nothing. scale, shift, most:
    see `int8_arithmetic.scale_sums`; sums (B, _COLUMNS) int32 to work in.
    """
    rows, size = out.shape[0], whole.shape[1]
    outputs, x, kept_sums = scale.size, whole.ctypes.data, sums.ctypes.data
    vector = LANES * size
    for left in range(0, outputs, _COLUMNS):
        right = min(left + _COLUMNS, outputs)
        for column in range(left, right, _PAIR):
            weight, to = weights + column * size, kept_sums + 4 * (column - left)
            for r in range(0, rows, _ROWS):
                here, there = x + r * size, to + r * 4 * _COLUMNS
                if column + _PAIR <= right:
                    _products_2(
                        here, size, weight, 4 * LANES, vector, size // 4, there, 4 * _COLUMNS
                    )
                else:
                    _products_1(
                        here, size, weight, 4 * LANES, vector, size // 4, there, 4 * _COLUMNS
                    )
        for r in range(rows):
            scale_sums(
                sums[r, : right - left],
                scale[left:right],
                shift[left:right],
                most[r],
                out[r, left:right],
                add,
            )


@njit(**OPTIONS)
def _soften(scores, live, shares):
    """The softmax of one row's scores (P,), of which `live` count, without its last division.

    shares (P,) DTYPE takes them; returns what they are to be multiplied by.
    """
    most = np.float32(-3e38)
    for t in range(live):
        most = larger(most, scores[t])
    whole = np.float32(0.0)
    for t in range(live):
        share = exp(scores[t] - most)
        whole += share
        shares[t] = narrow(share, shares[0])
    return np.float32(1.0) / whole


@njit(**OPTIONS)
def _attend(queries, keys, values, first, rows, begin, causal, scores, shares, found, seen, out):
    """Rows [first, first + rows) look back; out (B, C).

    queries (T, C), scaled; keys (H, D / G, P, G) and values (H, P / G, D, G), all DTYPE. Row r is
    at position begin + r and sees those up to it where `causal`, else all `begin` ones.
    scores (_ROWS, P) float32, shares (_ROWS, P) DTYPE, found (_ROWS, _PAIR) and seen (_ROWS,)
    float32: to work in.
    """
    heads, words, room = keys.shape[0], keys.shape[1], keys.shape[2]
    size = words * G
    width = heads * size
    item = 4 // G
    for h in range(heads):
        for r in range(0, rows, _ROWS):
            count = min(_ROWS, rows - r)
            end = begin + first + r + count if causal else begin
            steps = (end + G - 1) // G
            query = queries.ctypes.data + ((first + r) * width + h * size) * item
            key = keys[h].ctypes.data
            for t in range(0, end, _PAIR):
                _attention_2(
                    query,
                    width * item,
                    key + 4 * t,
                    4 * room,
                    4 * LANES,
                    words,
                    scores.ctypes.data + 4 * t,
                    4 * room,
                )
            for i in range(count):
                live = begin + first + r + i + 1 if causal else begin
                seen[i] = _soften(scores[i], live, shares[i])
                for t in range(live, steps * G):
                    shares[i, t] = 0
            value, share = values[h].ctypes.data, shares.ctypes.data
            for d in range(0, size, _PAIR):
                if d + _PAIR <= size:
                    _attention_2(
                        share,
                        room * item,
                        value + 4 * d,
                        4 * size,
                        4 * LANES,
                        steps,
                        found.ctypes.data,
                        4 * _PAIR,
                    )
                else:
                    _attention_1(
                        share,
                        room * item,
                        value + 4 * d,
                        4 * size,
                        4 * LANES,
                        steps,
                        found.ctypes.data,
                        4 * _PAIR,
                    )
                for i in range(count):
                    for j in range(min(_PAIR, size - d)):
                        out[r + i, h * size + d + j] = found[i, j] * seen[i]


@njit(**OPTIONS)
def _place(qkv, first, at, cached_keys, cached_values, queries, keys, values):
    """Put a block's rows qkv (R, 3C) where they are looked at, positions from `at` on.

    cached_keys, cached_values (H, T, D), of which the former has no rows where nothing is kept:
    the cache; queries, keys, values: see `_attend`, what `first` is of them too.
    """
    heads, words = keys.shape[0], keys.shape[1]
    size = words * G
    width = heads * size
    down = np.float32(1.0 / math.sqrt(size))
    for r in range(len(qkv)):
        for i in range(width):
            queries[first + r, i] = narrow(qkv[r, i] * down, queries[0, 0])
    for h in range(heads):
        for r in range(len(qkv)):
            t, base = at + r, width + h * size
            if cached_keys.shape[1]:
                for d in range(size):
                    cached_keys[h, t, d] = narrow(qkv[r, base + d], cached_keys[0, 0, 0])
                    cached_values[h, t, d] = narrow(qkv[r, base + width + d], cached_keys[0, 0, 0])
            for d in range(size):
                keys[h, d // G, t, d % G] = narrow(qkv[r, base + d], keys[0, 0, 0, 0])
                values[h, t // G, d, t % G] = narrow(qkv[r, base + width + d], keys[0, 0, 0, 0])


@njit(**OPTIONS)
def _recall(cached_keys, cached_values, first, last, keys, values):
    """Copy positions [first, last) of the cache to where they are looked at."""
    heads, size = cached_keys.shape[0], cached_keys.shape[2]
    for h in range(heads):
        for t in range(first, last):
            for d in range(size):
                keys[h, d // G, t, d % G] = narrow(wide(cached_keys[h, t, d]), keys[0, 0, 0, 0])
                values[h, t // G, d, t % G] = narrow(wide(cached_values[h, t, d]), keys[0, 0, 0, 0])


@kept(int8_arithmetic, int8_tiles)
def forward(
    x, start, needed, norms, last_norm, weights, scales, shifts, cached, slot, causal, shared,
    counter, own,
):  # fmt: skip
    """Run rows x (T, C) float32, overwritten, through all blocks and the last norm.

    They stand at positions from `start` on of a slot, whose cache is read before and written there;
    where not `causal` all see each other, start is 0 and `cached` has no positions. Rows before
    `needed`, whose result is nobody's, leave the last layer out but for its keys and values.
    norms (L, 2, 2, C) and last_norm (2, C): weights and biases; weights, scales, shifts: see
    `int8_kernels.decode`; cached: keys and values (L, S, H, T', D) float32 or uint16. shared,
    counter (`pieces`), own: see the functions of these names; any number of threads may run one
    call, as there.
    """
    rows = len(x)
    cached_keys, cached_values = cached
    queries, keys, values = shared
    whole, inner_whole, inner, attended, most, buffer, gated, scores, shares, found, seen, sums = (
        own
    )
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
                _recall(
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
                _attend(
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
                    most[r] = round_row(attended[r], whole[r])
                _multiply(whole, most, weights[layer, 1], scale[0], shift[0], row, True, sums)
                norm_and_round(row, norms[layer, 1, 0], norms[layer, 1, 1], buffer, whole, most)
                hidden = inner[:count]
                _multiply(whole, most, weights[layer, 2], scale[1], shift[1], hidden, False, sums)
                for r in range(count):
                    gelu_all(hidden[r], gated)
                    most[r] = round_row(gated, inner_whole[r])
                _multiply(inner_whole, most, weights[layer, 3], scale[2], shift[2], row, True, sums)
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
                    sums,
                )
                _place(
                    qkv,
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
                    int8_arithmetic.norm(row[r], last_norm[0], last_norm[1], row[r])
            done += 1
            lot = take(at, 1)
        finish(at, lots, done)
        finish(at, lots, 0)
        at += 2 * LINE


def fits(width: int, head_size: int) -> bool:
    """Whether products and heads are whole tiles."""
    return width % PADDING == 0 and head_size % LANES == 0


def pieces(layers: int) -> np.ndarray:
    """What the threads of one call share to divide it among them."""
    return counters(layers + 1)


def shared(rows: int, start: int, heads: int, size: int) -> tuple[np.ndarray, ...]:
    """What the threads of one call look at: queries, and keys and values of two layers."""
    room = -(-(start + rows) // _PAIR) * _PAIR
    return (
        np.zeros((-(-rows // _ROWS) * _ROWS, heads * size), DTYPE),
        np.zeros((2, heads, size // G, room, G), DTYPE),
        np.zeros((2, heads, room // G, size, G), DTYPE),
    )


def own(room: int, width: int) -> tuple[np.ndarray, ...]:
    """What each thread of a call works in by itself; room: positions, a multiple of _PAIR."""
    return (
        np.full((BLOCK, width), X_ZERO, np.uint8),
        np.full((BLOCK, 4 * width), X_ZERO, np.uint8),
        np.empty((BLOCK, 4 * width), np.float32),
        np.empty((BLOCK, width), np.float32),
        np.empty(BLOCK, np.float32),
        np.empty(width, np.float32),
        np.empty(4 * width, np.float32),
        np.empty((_ROWS, room), np.float32),
        np.zeros((_ROWS, room), DTYPE),
        np.empty((_ROWS, _PAIR), np.float32),
        np.empty(_ROWS, np.float32),
        np.empty((BLOCK, _COLUMNS), np.int32),
    )
