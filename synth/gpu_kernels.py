"""What a decode step on a GPU is made of, in Triton: few rows, every weight read once.

For a handful of rows a product is nothing but the reading of its weights, and what stands between
two products (a norm, a GELU, a residual, writing the cache) takes a kernel of its own as long as
the product itself. Here each goes along with the product beside it: five kernels a layer where
torch has twelve. Sums are single precision, in an order that does not depend on other rows.

Import needs Triton, which comes with torch's CUDA builds for Linux.

Shape letters: R rows, C width, H heads, D head size, T positions of a slot, P parts of those.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

MOST_ROWS = 16  # the narrowest tile of a card's matrix units
_EPS = tl.constexpr(1e-5)  # of every LayerNorm
_HALF_ROOT = tl.constexpr(0.7071067811865476)
_TILE = 16_384  # weights that a program holds in registers
_WARPS = 8  # of a program that multiplies one row after the other
FEW_ROWS = 3  # so many are multiplied one after the other
_OUTPUTS, _INPUTS = 16, 256  # of the tile that several rows are multiplied by at once
_ROWS_WARPS, _STAGES = 4, 4
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


@triton.jit
def _linear_rows(
    x,
    gain,
    weight,
    out,
    rows,
    size_out,
    SIZE_IN: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    NORM: tl.constexpr,
    GELU: tl.constexpr,
    ADD: tl.constexpr,
):
    """The same for up to ROWS rows at once, by matrix units; x is rounded as the weights are."""
    o = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    r = tl.arange(0, ROWS)
    asked, there = o < size_out, r < rows
    mean = tl.zeros((ROWS,), tl.float32)
    shrink = tl.zeros((ROWS,), tl.float32)
    if NORM:
        all_c = tl.arange(0, WIDE)
        known = there[:, None] & (all_c < SIZE_IN)[None, :]
        whole = tl.load(x + r[:, None] * SIZE_IN + all_c[None, :], mask=known, other=0.0)
        whole = whole.to(tl.float32)
        mean = tl.sum(whole, 1) / SIZE_IN
        apart = tl.where(known, whole - mean[:, None], 0.0)
        shrink = tl.rsqrt(tl.sum(apart * apart, 1) / SIZE_IN + _EPS)
    total = tl.zeros((OUTPUTS, ROWS), tl.float32)
    for first in range(0, SIZE_IN, INPUTS):
        c = first + tl.arange(0, INPUTS)
        inside = c < SIZE_IN
        w = tl.load(
            weight + o[:, None] * SIZE_IN + c[None, :],
            mask=asked[:, None] & inside[None, :],
            other=0.0,
        )
        v = tl.load(
            x + r[None, :] * SIZE_IN + c[:, None],
            mask=there[None, :] & inside[:, None],
            other=0.0,
        )
        if NORM:
            g = tl.load(gain + c, mask=inside, other=0.0).to(tl.float32)
            v = (v.to(tl.float32) - mean[None, :]) * shrink[None, :] * g[:, None]
        total = tl.dot(w, v.to(w.dtype), total, input_precision="ieee")
    if GELU:
        total = 0.5 * total * (1.0 + tl.erf(total * _HALF_ROOT))
    at = out + r[None, :] * size_out + o[:, None]
    shown = there[None, :] & asked[:, None]
    if ADD:
        total += tl.load(at, mask=shown, other=0.0).to(tl.float32)
    tl.store(at, total.to(out.dtype.element_ty), mask=shown)


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
):
    """One part of the positions of one head of one row. The part that the new position is in puts
    its key and value into the cache; the part that is done last adds up what all have seen.
    """
    row, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    now = tl.load(position + row).to(tl.int32)
    last = now // POSITIONS
    if part <= last:
        d = tl.arange(0, D)
        mine = qkv + row * 3 * H * D + head * D
        q = tl.load(mine + d).to(tl.float32) * scale
        slot = row.to(tl.int64) * slot_stride + head * T * D
        t = part * POSITIONS + tl.arange(0, POSITIONS)
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


@dataclass(frozen=True)
class Parts:
    """Where programs of attention leave what each has seen, for one call after the other."""

    sums: Tensor  # (R, H, P, D) float32
    scales: Tensor  # (R, H, P, 2) float32
    told: Tensor  # (R, H) int32, zeros between two calls


def parts(rows: int, heads: int, context: int, size: int, device: torch.device) -> Parts:
    """For calls of up to so many rows."""
    many = triton.next_power_of_2(triton.cdiv(context, _POSITIONS))
    return Parts(
        torch.zeros(rows, heads, many, size, device=device),
        torch.zeros(rows, heads, many, 2, device=device),
        torch.zeros(rows, heads, dtype=torch.int32, device=device),
    )


def linear(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    *,
    gain: Tensor | None = None,
    gelu: bool = False,
    add: bool = False,
) -> None:
    """out (R, O) = x (R, I) W^T, W (O, I), R <= MOST_ROWS; all contiguous.

    gain (I,): x is normed first (LayerNorm without bias); gelu: exact, of the product; add: += in
    place of =.
    """
    rows, (size_out, size_in) = x.shape[0], weight.shape
    wide = triton.next_power_of_2(size_in)
    norm = gain is not None
    tensors = (x, x if gain is None else gain, weight, out)
    launch: Any
    if rows <= FEW_ROWS:
        launch, outputs = _linear, max(1, _TILE // wide)
        launch[(triton.cdiv(size_out, outputs),)](
            *tensors,
            size_in,
            size_out,
            R=rows,
            OUTPUTS=outputs,
            INPUTS=wide,
            NORM=norm,
            GELU=gelu,
            ADD=add,
            num_warps=_WARPS,
        )
        return
    launch = _linear_rows
    launch[(triton.cdiv(size_out, _OUTPUTS),)](
        *tensors,
        rows,
        size_out,
        SIZE_IN=size_in,
        WIDE=wide,
        ROWS=MOST_ROWS,
        OUTPUTS=_OUTPUTS,
        INPUTS=min(_INPUTS, wide),
        NORM=norm,
        GELU=gelu,
        ADD=add,
        num_warps=_ROWS_WARPS,
        num_stages=_STAGES,
    )


def attend(
    qkv: Tensor, keys: Tensor, values: Tensor, position: Tensor, out: Tensor, parts: Parts
) -> None:
    """One new position in each of the first R slots of a layer's cache.

    qkv (R, 3C); keys, values (B, H, T, D), written at `position` (R,) int64; out (R, C). parts: of
    these sizes, for R rows at least.
    """
    _, heads, context, size = keys.shape
    many = parts.sums.shape[2]
    launch: Any = _attend
    launch[(qkv.shape[0], heads, many)](
        qkv,
        keys,
        values,
        position,
        out,
        parts.sums,
        parts.scales,
        parts.told,
        keys.stride(0),
        size**-0.5,
        H=heads,
        D=size,
        T=context,
        POSITIONS=_POSITIONS,
        PARTS=many,
        num_warps=_PART_WARPS,
    )


def fits(width: int, head_size: int, dtype: torch.dtype) -> bool:
    """Whether the kernels are made for a transformer of such numbers."""
    halves = (torch.bfloat16, torch.float16, torch.float32)
    return dtype in halves and 4 * width <= _TILE and head_size & (head_size - 1) == 0
