"""What a decode step on a GPU is made of, in Triton: few rows, every weight read once.

For a handful of rows a product is nothing but the reading of its weights, and what stands between
two products (a norm, a GELU, a residual, writing the cache) takes a kernel of its own as long as
the product itself. Here each goes along with the product beside it: five kernels a layer where
torch has twelve. Sums are single precision, in an order that does not depend on other rows, as long
as the same kernel takes as many.

Two know a way around a long sum that one program would make alone: the inputs of a wide product
(split-K) and the positions that attention looks at (flash decoding) are shared out, and the program
that is done last, by a count, adds up what all have left.

Where a card can do it (EARLY: Hopper and later), a kernel begins while the one in front of it
still runs, and waits for it with `gdc_wait` (programmatic dependent launch). What is read before
that must be older than the kernel in front; nothing may be written.

Import needs Triton, which comes with torch's CUDA builds for Linux.

Shape letters: R rows, C width, H heads, D head size, T positions of a slot, P parts of those.
"""

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from triton.language.extra.cuda import (  # pyright: ignore[reportMissingImports]
    gdc_launch_dependents,
    gdc_wait,
)

_EPS = tl.constexpr(1e-5)  # of every LayerNorm
_HALF_ROOT = tl.constexpr(0.7071067811865476)


@triton.jit
def linear(
    x,
    gain,
    weight,
    out,
    size_in,
    size_out,
    R: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    NORM: tl.constexpr,
    GELU: tl.constexpr,
    ADD: tl.constexpr,
    EARLY: tl.constexpr,
):
    """out (R, size_out) = or += gelu?(norm?(x) (R, size_in) weight (size_out, size_in) T)."""
    o = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    c = tl.arange(0, INPUTS)
    asked, inside = o < size_out, c < size_in
    w = tl.load(
        weight + o[:, None] * size_in + c[None, :],
        mask=asked[:, None] & inside[None, :],
        other=0.0,
    ).to(tl.float32)
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    for r in tl.static_range(R):
        row = tl.load(x + r * size_in + c, mask=inside, other=0.0).to(tl.float32)
        if NORM:
            mean = tl.sum(row, 0) / size_in
            row = tl.where(inside, row - mean, 0.0)
            row = row * tl.rsqrt(tl.sum(row * row, 0) / size_in + _EPS)
            row = row * tl.load(gain + c, mask=inside, other=0.0).to(tl.float32)
        y = tl.sum(w * row[None, :], 1)
        if GELU:
            y = 0.5 * y * (1.0 + tl.erf(y * _HALF_ROOT))
        at = out + r * size_out + o
        if ADD:
            y += tl.load(at, mask=asked, other=0.0).to(tl.float32)
        tl.store(at, y.to(out.dtype.element_ty), mask=asked)


@triton.jit(do_not_specialize=["rows"])
def linear_rows(
    x,
    gain,
    weight,
    out,
    sums,
    counts,
    rows,
    size_out,
    SIZE_IN: tl.constexpr,
    PIECES: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    WARPS: tl.constexpr,
    NORM: tl.constexpr,
    GELU: tl.constexpr,
    ADD: tl.constexpr,
    EARLY: tl.constexpr,
):
    """The same for up to ROWS rows at once, by matrix units; x is rounded as the weights are.

    One piece of the inputs, each warp with a share of it: one that had all of it would wait for
    each product before the next. The piece that is done last adds up what all have made.
    """
    tile, piece = tl.program_id(0), tl.program_id(1)
    mine, r = tl.arange(0, OUTPUTS), tl.arange(0, ROWS)
    o = tile * OUTPUTS + mine
    SHARE: tl.constexpr = INPUTS // WARPS
    c = tl.arange(0, WARPS)[:, None] * SHARE + tl.arange(0, SHARE)[None, :] + piece * INPUTS
    inside, there = c < SIZE_IN, r < rows
    w = tl.load(
        weight + o[None, :, None] * SIZE_IN + c[:, None, :],
        mask=(o < size_out)[None, :, None] & inside[:, None, :],
        other=0.0,
    )
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    known = there[None, None, :] & inside[:, :, None]
    v = tl.load(x + r[None, None, :] * SIZE_IN + c[:, :, None], mask=known, other=0.0)
    if NORM:
        v = v.to(tl.float32)
        mean = tl.sum(tl.sum(v, 1), 0) / SIZE_IN
        v = tl.where(known, v - mean[None, None, :], 0.0)
        shrink = tl.rsqrt(tl.sum(tl.sum(v * v, 1), 0) / SIZE_IN + _EPS)
        g = tl.load(gain + c, mask=inside, other=0.0).to(tl.float32)
        v = v * shrink[None, None, :] * g[:, :, None]
    y = tl.sum(tl.dot(w, v.to(w.dtype), input_precision="ieee"), 0)
    if PIECES == 1:
        _put(y, out, o, r, rows, size_out, GELU, ADD)
    else:
        at = mine[:, None] * ROWS + r[None, :]
        first = sums + tile * (PIECES * OUTPUTS * ROWS) + at
        tl.store(first + piece * (OUTPUTS * ROWS), y)
        tl.debug_barrier()  # all that this program stores, before it counts itself
        if tl.atomic_add(counts + tile, 1, sem="acq_rel") == PIECES - 1:
            # From where other programs wrote it, not from what lies near this one.
            whole = tl.load(first, cache_modifier=".cg")
            for other in tl.static_range(1, PIECES):
                whole += tl.load(first + other * (OUTPUTS * ROWS), cache_modifier=".cg")
            _put(whole, out, o, r, rows, size_out, GELU, ADD)
            tl.store(counts + tile, 0)


@triton.jit
def _put(y, out, o, r, rows, size_out, GELU: tl.constexpr, ADD: tl.constexpr):
    """y (OUTPUTS, ROWS) to where it goes."""
    if GELU:
        y = 0.5 * y * (1.0 + tl.erf(y * _HALF_ROOT))
    at = out + r[None, :] * size_out + o[:, None]
    shown = (r < rows)[None, :] & (o < size_out)[:, None]
    if ADD:
        y += tl.load(at, mask=shown, other=0.0).to(tl.float32)
    tl.store(at, y.to(out.dtype.element_ty), mask=shown)


@triton.jit
def attend(
    qkv,
    keys,
    values,
    position,
    out,
    sums,
    scales,
    counts,
    slot_stride,
    scale,
    H: tl.constexpr,
    D: tl.constexpr,
    T: tl.constexpr,
    POSITIONS: tl.constexpr,
    PARTS: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One part of the positions of one head of one row. The part that the new position is in puts
    its key and value into the cache; the part that is done last adds up what all have seen.
    """
    row, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    t = part * POSITIONS + tl.arange(0, POSITIONS)
    slot = row.to(tl.int64) * slot_stride + head * T * D
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    now = tl.load(position + row).to(tl.int32)
    last = now // POSITIONS
    if part <= last:
        d = tl.arange(0, D)
        mine = qkv + row * 3 * H * D + head * D
        q = tl.load(mine + d).to(tl.float32) * scale
        live = t < now
        at = slot + t[:, None] * D + d[None, :]
        k = tl.load(keys + at, mask=live[:, None], other=0.0).to(tl.float32)
        v = tl.load(values + at, mask=live[:, None], other=0.0).to(tl.float32)
        score = tl.where(live, tl.sum(k * q[None, :], 1), -float("inf"))
        most = tl.max(score, 0)
        # The new position is in hand; those before it are read, so no write is waited for.
        key, value = tl.load(mine + H * D + d), tl.load(mine + 2 * H * D + d)
        newest = tl.where(part == last, tl.sum(q * key.to(tl.float32), 0), -float("inf"))
        most = tl.maximum(most, newest)
        e, new = tl.exp(score - most), tl.exp(newest - most)
        weight = tl.sum(e, 0) + new
        total = tl.sum(e[:, None] * v, 0) + new * value.to(tl.float32)
        if part == last:
            tl.store(keys + slot + now * D + d, key.to(keys.dtype.element_ty))
            tl.store(values + slot + now * D + d, value.to(values.dtype.element_ty))
        seen = out + row * H * D + head * D + d
        if last == 0:
            tl.store(seen, (total / weight).to(out.dtype.element_ty))
        else:
            one = (row * H + head) * PARTS
            tl.store(sums + (one + part) * D + d, total)
            tl.store(scales + 2 * (one + part), most)
            tl.store(scales + 2 * (one + part) + 1, weight)
            tl.debug_barrier()  # all that this program stores, before it counts itself
            if tl.atomic_add(counts + row * H + head, 1, sem="acq_rel") == last:
                p = tl.arange(0, PARTS)
                made = p <= last
                # From where other programs wrote it, not from what lies near this one.
                highest = tl.load(
                    scales + 2 * (one + p), mask=made, other=-float("inf"), cache_modifier=".cg"
                )
                weights = tl.load(
                    scales + 2 * (one + p) + 1, mask=made, other=0.0, cache_modifier=".cg"
                )
                totals = tl.load(
                    sums + (one + p[:, None]) * D + d[None, :],
                    mask=made[:, None],
                    other=0.0,
                    cache_modifier=".cg",
                )
                share = tl.exp(highest - tl.max(highest, 0))
                all_seen = tl.sum(share[:, None] * totals, 0) / tl.sum(share * weights, 0)
                tl.store(seen, all_seen.to(out.dtype.element_ty))
                tl.store(counts + row * H + head, 0)


@triton.jit
def draw(
    logits,
    noise,
    noise_at,
    temperature,
    may_end,
    min_eos_p,
    advance,
    token,
    position,
    step,
    row,
    ended,
    slots,
    vocab,
    offset,
    END: tl.constexpr,
    BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One slot's token, as `synth.sampling.draw` and `is_end` say, and what follows from it."""
    slot = tl.program_id(0)
    v = tl.arange(0, BLOCK)
    inside = v < vocab
    at = tl.load(noise_at) * slots + slot
    exponential = tl.load(noise + at * vocab + v, mask=inside, other=1.0)
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    may = tl.load(may_end + slot) != 0
    z = tl.load(logits + slot * vocab + v, mask=inside, other=-float("inf"))
    if END >= 0:
        z = tl.where((v == END) & (not may), -float("inf"), z)
    e = tl.exp((z - tl.max(z, 0)) / tl.load(temperature + slot))
    drawn = tl.argmax(tl.where(inside, e / exponential, -1.0), 0)
    tl.store(row + slot, drawn.to(tl.int64))
    if END >= 0:
        likely = tl.sum(tl.where(v == END, e, 0.0), 0) / tl.sum(e, 0) >= tl.load(min_eos_p + slot)
        tl.store(ended + slot, may & ((drawn == END) | likely))
    else:
        tl.store(ended + slot, may & False)
    if tl.load(advance + slot) != 0:
        tl.store(token + slot, drawn.to(tl.int64) + offset)
        tl.store(position + slot, tl.load(position + slot) + 1)
        tl.store(step + slot, tl.load(step + slot) + 1)
