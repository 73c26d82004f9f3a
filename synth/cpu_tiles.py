"""The innermost loop of a product, as the processor's own instructions.

Numba has no name for a product of 8 bit or bfloat16 numbers that is added up in 32 bits, so those
loops are written as LLVM's. A `tile` is the product of a few rows of a and one or two vectors of
columns of b, held in registers. Knows addresses and sizes only.
"""

from collections.abc import Callable
from enum import Enum
from functools import reduce
from typing import Any

from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from synth.cpu_arithmetic import AHEAD, fetch_ir


def _lanes() -> int:
    """How many 32 bit sums the processor's widest products make; 0: none that are of use here."""
    if getattr(config, "DISABLE_JIT", False):
        return 0
    if _FEATURES.get("avx512bw"):
        return 16
    return 8 if _FEATURES.get("avx2") and _FEATURES.get("fma") else 0


_FEATURES = binding.get_host_cpu_features()
LANES = _lanes()
# Whether the processor multiplies numbers of 8 bits and adds up in 32 (VNNI).
HAS_VNNI = bool(_FEATURES.get("avx512vnni" if LANES == 16 else "avxvnni"))
# Whether it multiplies bfloat16 and adds up in float32.
HAS_BF16 = LANES == 16 and bool(_FEATURES.get("avx512bf16"))


class Kind(Enum):
    """What is multiplied, and how many numbers of it that are added up 4 bytes of a hold."""

    INT8 = "uint8 in a, int8 in b; sums are int32", 4
    WIDE = "int16 in a, int8 in b; sums are int32", 2
    BF16 = "bfloat16; sums are float32", 2
    FLOAT = "float32", 1

    @property
    def numbers(self) -> int:
        return self.value[1]

    @property
    def is_whole(self) -> bool:
        """Whether sums are int32."""
        return self in (Kind.INT8, Kind.WIDE)


_KIND_OF = {types.uint8: Kind.INT8, types.int16: Kind.WIDE, types.uint16: Kind.BF16}


class _BFloat(ir.Type):
    """A type that llvmlite has no class for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


def _multiply_add(builder: ir.IRBuilder, kind: Kind) -> Callable[[Any, Any, Any], Any]:
    """A function that writes sum + a * b; a as a vector of 32 bit words, b as `_of_b` loads it."""
    word = ir.VectorType(ir.IntType(32), LANES)
    sums = word if kind.is_whole else ir.VectorType(ir.FloatType(), LANES)
    pairs = ir.VectorType(ir.IntType(16), 2 * LANES)
    of = {
        Kind.INT8: (word, f"llvm.x86.avx512.vpdpbusd.{32 * LANES}"),
        Kind.WIDE: (
            pairs,
            "llvm.x86.avx2.pmadd.wd" if LANES == 8 else "llvm.x86.avx512.pmaddw.d.512",
        ),
        Kind.BF16: (
            ir.VectorType(_BFloat(), 2 * LANES),
            f"llvm.x86.avx512bf16.dpbf16ps.{32 * LANES}",
        ),
        Kind.FLOAT: (sums, f"llvm.fma.v{LANES}f32"),
    }
    taken, name = of[kind]
    orders = {Kind.WIDE: [taken, taken], Kind.FLOAT: [taken, taken, sums]}
    order = orders.get(kind, [sums, taken, taken])
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(sums, order), name)

    def write(total, a, b):
        a, b = builder.bitcast(a, taken), builder.bitcast(b, taken)
        if kind is Kind.WIDE:
            return builder.add(total, builder.call(function, [a, b]))
        return builder.call(function, [a, b, total] if kind is Kind.FLOAT else [total, a, b])

    return write


def _of_b(builder: ir.IRBuilder, kind: Kind, address) -> Any:
    """A vector of b, of which each lane meets one word of a."""
    if kind is Kind.WIDE:  # its 8 bits become 16 on the way
        narrow = ir.VectorType(ir.IntType(8), 2 * LANES)
        loaded = builder.load(builder.inttoptr(address, narrow.as_pointer()), align=1)
        return builder.sext(loaded, ir.VectorType(ir.IntType(16), 2 * LANES))
    spread = ir.VectorType(ir.IntType(32), LANES)
    return builder.load(builder.inttoptr(address, spread.as_pointer()), align=4)


def tile(kind: Kind, rows: int, vectors: int = 1, turns: int = 1) -> Any:
    """A function that multiplies `rows` rows of a by `vectors` * LANES columns of b.

    It takes the address of a and the bytes from one row of it to the next; the address of b, the
    bytes from its numbers for one word of a to those for the next, and from one vector of columns
    to the next; how many words of a row there are, a multiple of `turns`; and where the sums go:
    an address, and the bytes from one row of them to the next. A word of 4 bytes of a meets a
    vector of b, of which each lane holds as many numbers, for a column of its own. `turns` of the
    loop are unrolled, with sums of their own, so that one is not waited for by the next.
    """

    def function(typingctx, a, a_row, b, b_word, b_vector, words, out, out_row):
        def codegen(context, builder, signature, args):
            out, out_row = args[6:]
            sums = _sums_ir(builder, kind, rows, vectors, turns, args[:6])
            for row, totals in enumerate(sums):
                line = builder.add(out, builder.mul(out_row, ir.Constant(ir.IntType(64), row)))
                for vector, total in enumerate(totals):
                    place = builder.add(line, ir.Constant(ir.IntType(64), 4 * LANES * vector))
                    pointer = builder.inttoptr(place, total.type.as_pointer())
                    builder.store(total, pointer, align=4)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), codegen

    function.__name__ = f"_tile_{kind.name}_{rows}_{vectors}"
    return intrinsic(function)


def products(rows: int, vectors: int = 1, turns: int = 1) -> Any:
    """The same of rounded rows, which are an array before the rest, as the numbers they stand for.

    By what those are, uint8, int16 or uint16, the tile is of INT8, WIDE or BF16. Before `out` come
    the addresses of float32 that a column's sums are scaled by, of int32 that they are shifted by
    before, and of float32 that a row is scaled by; after `out_row` whether what is there is added
    to.
    """

    def function(
        typingctx,
        whole,
        a,
        a_row,
        b,
        b_word,
        b_vector,
        words,
        scale,
        shift,
        most,
        out,
        out_row,
        add,
    ):
        kind = _KIND_OF[whole.dtype]

        def codegen(context, builder, signature, args):
            scale, shift, most, out, out_row, add = args[7:]
            # Sums of floats depend on their order, which is to be the same in every tile.
            apart = turns if kind.is_whole else 1
            ahead = vectors == 1  # a step's weights, which come from memory
            sums = _sums_ir(builder, kind, rows, vectors, apart, args[1:7], ahead=ahead)
            _scaled_ir(builder, kind, sums, scale, shift, most, out, out_row, add)
            return context.get_dummy_value()

        return types.void(whole, *[types.int64] * 11, types.boolean), codegen

    function.__name__ = f"_products_{rows}_{vectors}"
    return intrinsic(function)


def _scaled_ir(
    builder: ir.IRBuilder, kind: Kind, sums, scale, shift, most, out, out_row, add
) -> None:
    """Write (sums - shift) * scale * most, or add it, in this order in every tile, so that a row is
    the same in each: Numba lets LLVM choose another, but for the fences. Sums of BF16 are as they
    should be.
    """
    fence_of = ir.VectorType(ir.FloatType(), LANES)
    fence = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(fence_of, [fence_of]), f"llvm.arithmetic.fence.v{LANES}f32"
    )
    index, number = ir.IntType(64), ir.FloatType()
    whole, numbers = ir.VectorType(ir.IntType(32), LANES), ir.VectorType(number, LANES)

    def at(address, offset: int, kind):
        moved = builder.add(address, ir.Constant(index, offset))
        return builder.inttoptr(moved, kind.as_pointer())

    vectors = range(len(sums[0]))
    scales = [builder.load(at(scale, 4 * LANES * v, numbers), align=4) for v in vectors]
    shifts = [builder.load(at(shift, 4 * LANES * v, whole), align=4) for v in vectors]
    for row, totals in enumerate(sums):
        times = _spread(builder, builder.load(at(most, 4 * row, number), align=4))
        line = builder.add(out, builder.mul(out_row, ir.Constant(index, row)))
        for v, total in enumerate(totals):
            place = at(line, 4 * LANES * v, numbers)
            if kind.is_whole:
                y = builder.sitofp(builder.sub(total, shifts[v]), numbers)
                y = builder.call(fence, [builder.fmul(y, scales[v])])
                y = builder.call(fence, [builder.fmul(y, times)])
            else:
                y = builder.call(fence, [total])
            more = builder.fadd(builder.load(place, align=4), y)
            builder.store(builder.select(add, more, y), place, align=4)


def _spread(builder: ir.IRBuilder, value) -> Any:
    """A vector with one value in all lanes."""
    nowhere = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    alone = builder.insert_element(nowhere, value, ir.Constant(ir.IntType(32), 0))
    first = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(alone, nowhere, first)


def _sums_ir(
    builder: ir.IRBuilder, kind: Kind, rows: int, vectors: int, turns: int, args, *, ahead=False
) -> Any:
    """The loop of a tile; returns its sums, a list of rows of vectors.

    ahead: have b fetched before its turn.
    """
    a, a_row, b, b_word, b_vector, words = args
    word, index = ir.IntType(32), ir.IntType(64)
    sums = ir.VectorType(word if kind.is_whole else ir.FloatType(), LANES)
    nothing = ir.Constant(sums, [0 if kind.is_whole else 0.0] * LANES)
    multiply_add = _multiply_add(builder, kind)

    def number(value: int) -> ir.Constant:
        return ir.Constant(index, value)

    starts = [builder.add(a, builder.mul(a_row, number(row))) for row in range(rows)]
    before = builder.block
    loop, done = builder.append_basic_block("loop"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    count, place = builder.phi(index), builder.phi(index)
    count.add_incoming(number(0), before)
    place.add_incoming(b, before)
    lie = place
    held = [
        [[builder.phi(sums) for _ in range(vectors)] for _ in range(rows)] for _ in range(turns)
    ]
    for turn in range(turns):
        places = [builder.add(lie, builder.mul(b_vector, number(v))) for v in range(vectors)]
        columns = [_of_b(builder, kind, place) for place in places]
        if ahead:
            fetch_ir(builder, builder.add(lie, number(AHEAD)))
        offset = builder.mul(builder.add(count, number(turn)), number(4))
        for row in range(rows):
            where = builder.inttoptr(builder.add(starts[row], offset), word.as_pointer())
            same = _spread(builder, builder.load(where, align=1))
            for vector in range(vectors):
                total = held[turn][row][vector]
                total.add_incoming(nothing, before)
                total.add_incoming(multiply_add(total, same, columns[vector]), loop)
        lie = builder.add(lie, b_word)
    following = builder.add(count, number(turns))
    count.add_incoming(following, loop)
    place.add_incoming(lie, loop)
    builder.cbranch(builder.icmp_signed("<", following, words), loop, done)
    builder.position_at_end(done)
    add = builder.add if kind.is_whole else builder.fadd

    def total_of(row: int, vector: int):
        parts = [held[turn][row][vector].incomings[1][0] for turn in range(turns)]
        return reduce(add, parts)

    return [[total_of(row, vector) for vector in range(vectors)] for row in range(rows)]
