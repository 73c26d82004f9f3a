"""What a compiled step does to a row beside its products, by Numba.

A row is normed, rounded to 8 or 16 bits or to bfloat16, looks back on what came before and goes
through GELU. `cpu_kernels` makes a step of this. Knows arrays, no threads.

Shape letters: R rows, C width, T positions, D head size.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

_X_ZERO = 128  # what 0 is as a rounded number of a row, where those are uint8
_X_MOST = 127  # what its largest magnitude is
_W_MOST = 127  # the largest magnitude of a rounded weight
_LEAST = np.float32(1e-30)
_EPS = np.float32(1e-5)
_LINE = 64  # bytes that are fetched at once
# How far ahead of its use what comes from memory is fetched, in bytes: processors look ahead by
# themselves only within a page. A step of 8 rows takes 2.2 ms in place of 2.9 (two cores of a Zen
# 5), and for 8 rows to look back on 600 positions 6.3 in place of 9.1 (one core).
AHEAD = 4096
OPTIONS = {
    "nogil": True,
    "boundscheck": False,
    "error_model": "numpy",
    # Sums may be taken in another order, and no number here is infinite or none at all.
    "fastmath": {"reassoc", "contract", "nsz", "arcp", "nnan", "ninf"},
}


def _reinterpret(name, source, target) -> Any:
    """A scalar's bits as another type's."""

    def function(typingctx, x):
        def codegen(context, builder, signature, args):
            return builder.bitcast(args[0], context.get_value_type(target))

        return target(source), codegen

    function.__name__ = name
    return intrinsic(function)


_as_float = _reinterpret("_as_float", types.uint32, types.float32)
_as_bits = _reinterpret("_as_bits", types.float32, types.uint32)


def _larger(typingctx, a, b):
    """The larger of two float32, neither of which is none at all.

    Python's `max` is a comparison and a choice, of which LLVM makes no vectors: half a nanosecond
    a number, where this takes a fifteenth.
    """

    def codegen(context, builder, signature, args):
        number = ir.FloatType()
        kind = ir.FunctionType(number, [number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.maxnum.f32")
        return builder.call(function, args, fastmath=("nnan", "nsz"))

    return types.float32(types.float32, types.float32), codegen


larger: Any = intrinsic(_larger)


def fetch_ir(builder, address) -> None:
    """Have what lies at an address, if anything does, brought near."""
    word, byte = ir.IntType(32), ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    reading, near, data = (ir.Constant(word, value) for value in (0, 3, 1))
    builder.call(function, [builder.inttoptr(address, byte), reading, near, data])


def _fetch(typingctx, address):
    def codegen(context, builder, signature, args):
        fetch_ir(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


fetch: Any = intrinsic(_fetch)


@njit(**OPTIONS)
def _fetch_all(address, size):
    for i in range(0, size, _LINE):
        fetch(address + i)


def wide(x):
    """A value of the cache as float32: itself, or a bfloat16's bits made wider."""


def narrow(x, like):
    """A float32 as the cache holds it, rounded to nearest even."""


@overload(wide)
def _(x):
    if x == types.uint16:
        return lambda x: _as_float(np.uint32(x) << np.uint32(16))
    return lambda x: x


@overload(narrow)
def _(x, like):
    def rounded(x, like):
        bits = _as_bits(x)
        up = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        return np.uint16((bits + up) >> np.uint32(16))

    return rounded if like == types.uint16 else lambda x, like: x


def zero_of(whole: np.ndarray) -> int:
    """What 0 is in rounded rows."""
    return _X_ZERO if whole.dtype == np.uint8 else 0


def steps_of(whole: np.ndarray) -> int:
    """Into how many steps the largest magnitude of rows of that length is divided.

    In 16 bits as many as leave room for the sum of all products in 32: for 3,072 of them 5,504,
    so that hardly anything is lost beside the rounding of weights.
    """
    if whole.dtype == np.uint8:
        return _X_MOST
    return min(2**15 - 1, (2**31 - 1) // (_W_MOST * whole.shape[-1]))


@overload(steps_of)
def _(whole):
    if whole.dtype == types.uint8:
        return lambda whole: np.float32(_X_MOST)
    return lambda whole: np.float32(
        min(np.int64(2**15 - 1), np.int64(2**31 - 1) // (_W_MOST * whole.size))
    )


def _is_half(whole):
    """Whether rows are rounded to bfloat16, which needs no scale."""


@overload(_is_half)
def _(whole):
    return (lambda whole: True) if whole.dtype == types.uint16 else lambda whole: False


def bytes_of(whole) -> Any:
    """Bytes of a packed weight that rounded rows are multiplied by."""


@overload(bytes_of)
def _(whole):
    return (lambda whole: 2) if whole.dtype == types.uint16 else lambda whole: 1


def _as_whole(x, whole):
    """A float32 that is a whole number as rows hold it."""


@overload(_as_whole)
def _(x, whole):
    if whole.dtype == types.uint8:
        return lambda x, whole: np.uint8(np.int32(x) + np.int32(_X_ZERO))
    return lambda x, whole: np.int16(np.int32(x))


@njit(**OPTIONS)
def exp(x):
    """e^x for x <= 0 in float32, to its last bits: 2 to a whole power times a polynomial."""
    # Bounded: numbers too small for a full mantissa take many times as long.
    scaled = larger(x * np.float32(1.4426950408889634), np.float32(-100.0))
    whole = np.floor(scaled + np.float32(0.5))
    f = (scaled - whole) * np.float32(0.6931471805599453)
    p = np.float32(1 / 720)
    p = p * f + np.float32(1 / 120)
    p = p * f + np.float32(1 / 24)
    p = p * f + np.float32(1 / 6)
    p = p * f + np.float32(0.5)
    p = p * f + np.float32(1.0)
    p = p * f + np.float32(1.0)
    return p * _as_float(np.uint32(np.int32(whole) + np.int32(127)) << np.uint32(23))


@njit(**OPTIONS)
def _gelu(x):
    """Exact GELU; erf by Abramowitz and Stegun 7.1.26, off by at most 1.5e-7."""
    z = abs(x) * np.float32(0.7071067811865476)
    t = np.float32(1.0) / (np.float32(1.0) + np.float32(0.3275911) * z)
    p = np.float32(1.061405429)
    p = p * t + np.float32(-1.453152027)
    p = p * t + np.float32(1.421413741)
    p = p * t + np.float32(-0.284496736)
    p = p * t + np.float32(0.254829592)
    tail = np.float32(0.5) * p * t * exp(-z * z)  # of the normal distribution, beyond |x|
    return larger(x, np.float32(0.0)) - abs(x) * tail


@njit(**OPTIONS)
def gelu_all(x, out):
    """Exact GELU of one row, to within 1e-6."""
    for i in range(x.size):
        out[i] = _gelu(x[i])


@njit(**OPTIONS)
def norm(x, weight, bias, out):
    """LayerNorm of one row."""
    n = x.size
    total = np.float32(0.0)
    for i in range(n):
        total += x[i]
    mean = total / np.float32(n)
    squares = np.float32(0.0)
    for i in range(n):
        squares += (x[i] - mean) * (x[i] - mean)
    scale = np.float32(1.0) / np.sqrt(squares / np.float32(n) + _EPS)
    for i in range(n):
        out[i] = (x[i] - mean) * scale * weight[i] + bias[i]


@njit(**OPTIONS)
def round_row(x, whole):
    """One row (C,) as whole numbers, uint8 around 128 or int16; returns its largest magnitude.

    Where `whole` is uint16, as bfloat16's bits; returns 1. whole (C or more,): what is past the row
    stays as it is.
    """
    if _is_half(whole):
        for i in range(x.size):
            whole[i] = narrow(x[i], whole[0])
        return np.float32(1.0)
    most = _LEAST
    for i in range(x.size):
        most = larger(most, abs(x[i]))
    scale = steps_of(whole) / most
    for i in range(x.size):
        whole[i] = _as_whole(np.rint(x[i] * scale), whole)
    return most


@njit(**OPTIONS)
def norm_and_round(x, weight, bias, buffer, whole, most):
    """LayerNorm of rows x (R, C) and `round_row`, into whole (R, C or more) and most (R,).

    buffer (C,): to work in.
    """
    for r in range(len(x)):
        norm(x[r], weight, bias, buffer)
        most[r] = round_row(buffer, whole[r])


@njit(**OPTIONS)
def attend_head(query, key, value, keys, values, scores, down, out):
    """One head of one row: key and value (D,) go to the end of keys and values (T, D)."""
    live, size = keys.shape
    for d in range(size):
        keys[live - 1, d] = narrow(key[d], keys[0, 0])
        values[live - 1, d] = narrow(value[d], keys[0, 0])
    # Four positions at a time: sums that do not wait for each other, and a quarter of the way to
    # `out` and back.
    fours = live - live % 4
    lines, key, value_at = 4 * size * keys.itemsize, keys.ctypes.data + AHEAD, values.ctypes.data
    for t in range(0, fours, 4):
        _fetch_all(key, lines)
        key += lines
        k, k_1, k_2, k_3 = keys[t], keys[t + 1], keys[t + 2], keys[t + 3]
        total = total_1 = total_2 = total_3 = np.float32(0.0)
        for d in range(size):
            total += query[d] * wide(k[d])
            total_1 += query[d] * wide(k_1[d])
            total_2 += query[d] * wide(k_2[d])
            total_3 += query[d] * wide(k_3[d])
        scores[t], scores[t + 1] = total * down, total_1 * down
        scores[t + 2], scores[t + 3] = total_2 * down, total_3 * down
    for t in range(fours, live):
        k = keys[t]
        total = np.float32(0.0)
        for d in range(size):
            total += query[d] * wide(k[d])
        scores[t] = total * down
    _fetch_all(value_at, AHEAD)
    value_at += AHEAD
    most = np.float32(-3e38)
    for t in range(live):
        most = larger(most, scores[t])
    whole = np.float32(0.0)
    for t in range(live):
        scores[t] = exp(scores[t] - most)
        whole += scores[t]
    out[:] = np.float32(0.0)
    for t in range(0, fours, 4):
        _fetch_all(value_at, lines)
        value_at += lines
        v, v_1, v_2, v_3 = values[t], values[t + 1], values[t + 2], values[t + 3]
        share, share_1, share_2, share_3 = scores[t], scores[t + 1], scores[t + 2], scores[t + 3]
        for d in range(size):
            out[d] += (share * wide(v[d]) + share_1 * wide(v_1[d])) + (
                share_2 * wide(v_2[d]) + share_3 * wide(v_3[d])
            )
    for t in range(fours, live):
        v = values[t]
        share = scores[t]
        for d in range(size):
            out[d] += share * wide(v[d])
    for d in range(size):
        out[d] /= whole
