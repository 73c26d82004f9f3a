"""What a decode step on a GPU is made of, in Triton: few rows, every weight read once.

For a handful of rows a product is nothing but the reading of its weights, and what stands between
two products (a norm, a GELU, a residual, writing the cache) takes a kernel of its own as long as
the product itself. Here each goes along with the product beside it: five kernels a layer where
torch has twelve. Sums are single precision, in an order that does not depend on other rows.

Import needs Triton, which comes with torch's CUDA builds for Linux.

Shape letters: R rows, C width, H heads, D head size, T positions of a slot, P parts of those.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor
from triton.language.extra.cuda import (  # pyright: ignore[reportMissingImports]
    gdc_launch_dependents,
    gdc_wait,
)

from synth.slot_draws import SlotState

MOST_ROWS = 16  # the narrowest tile of a card's matrix units
_EPS = tl.constexpr(1e-5)  # of every LayerNorm
_HALF_ROOT = tl.constexpr(0.7071067811865476)
_WIDEST = 1024  # what can be normed
FEW_ROWS = 3  # so many are multiplied one after the other
_TILE, _WARPS = 8192, 4  # weights that a program then holds in registers
_OUTPUTS, _INPUTS, _ROWS_WARPS = 16, 1024, 4  # of a program that multiplies more of them at once
_POSITIONS, _PART_WARPS = 64, 2  # that a program of attention looks at


@triton.jit
def _linear(
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
def _linear_rows(
    x,
    gain,
    weight,
    out,
    sums,
    told,
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
        tl.debug_barrier()  # all of that before it is told
        if tl.atomic_add(told + tile, 1, sem="acq_rel") == PIECES - 1:
            # From where other programs wrote it, not from what lies near this one.
            whole = tl.load(first, cache_modifier=".cg")
            for other in tl.static_range(1, PIECES):
                whole += tl.load(first + other * (OUTPUTS * ROWS), cache_modifier=".cg")
            _put(whole, out, o, r, rows, size_out, GELU, ADD)
            tl.store(told + tile, 0)


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
def _attend(
    qkv,
    keys,
    values,
    position,
    out,
    sums,
    scales,
    told,
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
            tl.debug_barrier()  # all of that before it is told
            if tl.atomic_add(told + row * H + head, 1, sem="acq_rel") == last:
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
                tl.store(told + row * H + head, 0)


@triton.jit
def _draw(
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


@dataclass(frozen=True)
class Scratch:
    """Where programs leave their part of a sum for the one that adds up, call after call."""

    seen: Tensor  # of attention: (R, H, P, D) float32
    scales: Tensor  # (R, H, P, 2) float32
    looked: Tensor  # how many parts there are of each: (R, H) int32, zeros between two calls
    products: Tensor  # (tiles, pieces, OUTPUTS, ROWS) float32, of a product with as many of both
    multiplied: Tensor  # (tiles,) int32, zeros between two calls


def scratch(rows: int, heads: int, context: int, size: int, device: torch.device) -> Scratch:
    """For calls of up to so many rows."""
    many = triton.next_power_of_2(triton.cdiv(context, _POSITIONS))
    width = heads * size
    tiles, pieces = triton.cdiv(width, _OUTPUTS), triton.cdiv(4 * width, _INPUTS)

    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    return Scratch(
        zeros(rows, heads, many, size),
        zeros(rows, heads, many, 2),
        zeros(rows, heads, dtype=torch.int32),
        zeros(tiles, pieces, _OUTPUTS, MOST_ROWS),
        zeros(tiles, dtype=torch.int32),
    )


def linear(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    scratch: Scratch,
    *,
    gain: Tensor | None = None,
    gelu: bool = False,
    add: bool = False,
) -> None:
    """out (R, O) = x (R, I) W^T, W (O, I), R <= MOST_ROWS; all contiguous.

    gain (I,): x is normed first (LayerNorm without bias), which is wide enough for that; gelu:
    exact, of the product; add: += in place of =. scratch: of the transformer that this is a part
    of. Of more than FEW_ROWS numbers have 16 bits.
    """
    rows, (size_out, size_in) = x.shape[0], weight.shape
    early = _starts_early(x.device)
    launch: Any
    options: dict[str, Any] = {"NORM": gain is not None, "GELU": gelu, "ADD": add, "EARLY": early}
    if early:
        options["launch_pdl"] = True
    tensors = (x, x if gain is None else gain, weight, out)
    if rows <= FEW_ROWS:
        launch, wide = _linear, triton.next_power_of_2(size_in)
        outputs = max(1, _TILE // wide)
        launch[(triton.cdiv(size_out, outputs),)](
            *tensors,
            size_in,
            size_out,
            R=rows,
            OUTPUTS=outputs,
            INPUTS=wide,
            num_warps=_WARPS,
            **options,
        )
        return
    launch = _linear_rows
    inputs = min(_INPUTS, triton.next_power_of_2(size_in))
    tiles, pieces = triton.cdiv(size_out, _OUTPUTS), triton.cdiv(size_in, inputs)
    assert pieces == 1 or (gain is None and tiles <= len(scratch.multiplied))
    launch[(tiles, pieces)](
        *tensors,
        scratch.products,
        scratch.multiplied,
        rows,
        size_out,
        SIZE_IN=size_in,
        PIECES=pieces,
        ROWS=MOST_ROWS,
        OUTPUTS=_OUTPUTS,
        INPUTS=inputs,
        WARPS=min(_ROWS_WARPS, max(1, inputs // 16)),
        num_warps=_ROWS_WARPS,
        **options,
    )


@cache
def _starts_early(device: torch.device) -> bool:
    """Whether a kernel may begin before the one in front of it has ended, and wait for its results
    only: its weights are then on their way meanwhile (programmatic dependent launch).
    """
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def attend(
    qkv: Tensor, keys: Tensor, values: Tensor, position: Tensor, out: Tensor, scratch: Scratch
) -> None:
    """One new position in each of the first R slots of a layer's cache.

    qkv (R, 3C); keys, values (B, H, T, D), written at `position` (R,) int64; out (R, C).
    scratch: of these sizes, for R rows at least.
    """
    _, heads, context, size = keys.shape
    many, early = scratch.seen.shape[2], _starts_early(qkv.device)
    launch: Any = _attend
    options = {"launch_pdl": True} if early else {}
    launch[(qkv.shape[0], heads, many)](
        qkv,
        keys,
        values,
        position,
        out,
        scratch.seen,
        scratch.scales,
        scratch.looked,
        keys.stride(0),
        size**-0.5,
        H=heads,
        D=size,
        T=context,
        POSITIONS=_POSITIONS,
        PARTS=many,
        EARLY=early,
        num_warps=_PART_WARPS,
        **options,
    )


def draw(
    logits: Tensor,
    noise: Tensor,
    noise_at: Tensor,
    slots: SlotState,
    *,
    offset: int,
    end_row: int | None,
) -> tuple[Tensor, Tensor]:
    """A token for each of the first R slots, fed back with `offset` added to it.

    logits (R, V) float32; noise (N, B, V) float32, of which that at `noise_at` (1,) int64 is used.
    Returns head rows (R,) int64 and whether they end the sequence (R,) bool.
    """
    rows, vocab = logits.shape
    row = torch.empty(rows, dtype=torch.int64, device=logits.device)
    ended = torch.empty(rows, dtype=torch.bool, device=logits.device)
    block, early = triton.next_power_of_2(vocab), _starts_early(logits.device)
    launch: Any = _draw
    launch[(rows,)](
        logits,
        noise,
        noise_at,
        slots.temperature,
        slots.may_end,
        slots.min_eos_p,
        slots.advance,
        slots.token,
        slots.position,
        slots.step,
        row,
        ended,
        noise.shape[1],
        vocab,
        offset,
        END=-1 if end_row is None else end_row,
        BLOCK=block,
        EARLY=early,
        num_warps=min(16, max(1, block // 256)),
        **({"launch_pdl": True} if early else {}),
    )
    return row, ended


def most_rows(dtype: torch.dtype) -> int:
    """Up to how many rows the kernels take, and are faster than torch's products."""
    return MOST_ROWS if dtype.itemsize == 2 else FEW_ROWS


def fits(width: int, head_size: int, dtype: torch.dtype) -> bool:
    """Whether the kernels are made for a transformer of such numbers."""
    halves = (torch.bfloat16, torch.float16, torch.float32)
    return dtype in halves and width <= _WIDEST and head_size & (head_size - 1) == 0
