"""How a block of rows looks back, compiled: the attention of `cpu_forward`.

Keys and values are copied into the order that products want. Those multiply bfloat16 where the
processor does that and adds up in float32, else float32. Knows addresses and sizes, no weights.

Shape letters: T positions, C width, H heads, D head size, B rows of a block, G numbers in 4 bytes
of what is multiplied (2 or 1), P positions that there is room for.
"""

import math

import numpy as np
from numba import njit

from synth.cpu_arithmetic import OPTIONS, exp, larger, narrow, wide
from synth.cpu_tiles import HAS_BF16, LANES, Kind, tile

ROWS = 8 if LANES == 16 else 6  # of a tile, whose sums fit the processor's registers
PAIR = 2 * LANES  # columns of a tile
_KIND = Kind.BF16 if HAS_BF16 else Kind.FLOAT
G = _KIND.numbers
DTYPE = np.uint16 if HAS_BF16 else np.float32

_tile_2, _tile_1 = tile(_KIND, ROWS, 2), tile(_KIND, ROWS, 1)


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
def _shared(whole, share, share_row, value, value_vector, words, to):
    """A tile of shares times one or, where `whole`, two vectors of values."""
    if whole:
        _tile_2(share, share_row, value, 4 * LANES, value_vector, words, to, 4 * PAIR)
    else:
        _tile_1(share, share_row, value, 4 * LANES, value_vector, words, to, 4 * PAIR)


@njit(**OPTIONS)
def attend(queries, keys, values, first, rows, begin, causal, scores, shares, found, seen, out):
    """Rows [first, first + rows) look back; out (B, C).

    queries (T, C), scaled; keys (H, P / PAIR, D / G, PAIR, G), so that what a tile looks at lies
    together, and values (H, D / LANES, P / G, LANES, G), for the same reason, all DTYPE. Row r is
    at position begin + r and sees those up to it where `causal`, else all `begin` ones.
    scores (B, P) float32, shares (B, P) DTYPE, found (ROWS, PAIR) and seen (B,) float32: to work
    in, B a multiple of ROWS.
    """
    heads, words, room = keys.shape[0], keys.shape[2], scores.shape[1]
    size = words * G
    width = heads * size
    item = 4 // G
    last = begin + first + rows if causal else begin  # what the last row sees ends here
    for h in range(heads):
        # What is looked at is met by all rows while it is in a core's nearest cache.
        key, score = keys[h].ctypes.data, scores.ctypes.data
        for t in range(0, last, PAIR):
            for r in range(0, rows, ROWS):
                if causal and begin + first + r + min(ROWS, rows - r) <= t:
                    continue
                _tile_2(
                    queries.ctypes.data + ((first + r) * width + h * size) * item,
                    width * item,
                    key + 4 * t * words,
                    4 * PAIR,
                    4 * LANES,
                    words,
                    score + 4 * (r * room + t),
                    4 * room,
                )
        for r in range(0, rows, ROWS):
            count = min(ROWS, rows - r)
            end = begin + first + r + count if causal else begin
            steps = (end + G - 1) // G
            for i in range(r, r + count):
                live = begin + first + i + 1 if causal else begin
                seen[i] = _soften(scores[i], live, shares[i])
                for t in range(live, steps * G):
                    shares[i, t] = 0
        value, share, column = values[h].ctypes.data, shares.ctypes.data, 4 * values.shape[2]
        for d in range(0, size, PAIR):
            for r in range(0, rows, ROWS):
                count = min(ROWS, rows - r)
                end = begin + first + r + count if causal else begin
                _shared(
                    d + PAIR <= size,
                    share + r * room * item,
                    room * item,
                    value + d * column,
                    LANES * column,
                    (end + G - 1) // G,
                    found.ctypes.data,
                )
                for i in range(count):
                    for j in range(min(PAIR, size - d)):
                        out[r + i, h * size + d + j] = found[i, j] * seen[r + i]


@njit(**OPTIONS)
def _narrow_all(x, out):
    for i in range(out.size):
        out[i] = narrow(x[i], out[0])


@njit(**OPTIONS)
def place(qkv, rows, first, at, cached_keys, cached_values, queries, keys, values):
    """Put a block's rows qkv (rows, 3C or more) where they are looked at, positions from `at` on.

    cached_keys, cached_values (H, T, D), of which the former has no rows where nothing is kept:
    the cache; queries, keys, values: see `attend`, what `first` is of them too.
    """
    heads, words, like = keys.shape[0], keys.shape[2], keys[0, 0, 0, 0, 0]
    size = words * G
    width = heads * size
    down = np.float32(1.0 / math.sqrt(size))
    # Rounded in order first: one number at a time all this takes three times as long.
    rounded = np.empty(2 * width, keys.dtype)
    key_words, in_words = keys.view(np.uint32), rounded.view(np.uint32)
    for r in range(rows):
        t = at + r
        for i in range(width):
            queries[first + r, i] = narrow(qkv[r, i] * down, queries[0, 0])
        for i in range(2 * width):
            rounded[i] = narrow(qkv[r, width + i], like)
        if cached_keys.shape[1]:
            for h in range(heads):
                key, value = width + h * size, 2 * width + h * size
                _narrow_all(qkv[r, key : key + size], cached_keys[h, t])
                _narrow_all(qkv[r, value : value + size], cached_values[h, t])
        for h in range(heads):
            for word in range(words):
                key_words[h, t // PAIR, word, t % PAIR, 0] = in_words[h * words + word]
            for d in range(0, size, LANES):
                for lane in range(LANES):
                    number = rounded[width + h * size + d + lane]
                    values[h, d // LANES, t // G, lane, t % G] = number


@njit(**OPTIONS)
def recall(cached_keys, cached_values, first, last, keys, values):
    """Copy positions [first, last) of the cache to where they are looked at."""
    heads, size, like = cached_keys.shape[0], cached_keys.shape[2], keys[0, 0, 0, 0, 0]
    for h in range(heads):
        for t in range(first, last):
            for d in range(size):
                key, value = wide(cached_keys[h, t, d]), wide(cached_values[h, t, d])
                keys[h, t // PAIR, d // G, t % PAIR, d % G] = narrow(key, like)
                values[h, d // LANES, t // G, d % LANES, t % G] = narrow(value, like)
