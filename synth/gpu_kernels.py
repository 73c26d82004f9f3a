"""What a decode step on a GPU is made of, in Triton: few rows, every weight read once.

For a handful of rows a product is nothing but the reading of its weights, and what stands between
two products (a norm, a GELU, a residual, writing the cache) takes a kernel of its own as long as
the product itself. Here each goes along with the product beside it: five kernels a layer where
torch has twelve. Sums are single precision, in an order that does not depend on other rows.

Import needs Triton, which comes with torch's CUDA builds for Linux.

Shape letters: R rows, C width, H heads, D head size, T positions of a slot.
"""

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

_EPS = tl.constexpr(1e-5)  # of every LayerNorm
_HALF_ROOT = tl.constexpr(0.7071067811865476)
_TILE = 16_384  # weights that a program holds in registers
_WARPS = 8  # of a program that multiplies
_POSITIONS = 128  # that attention looks at at once


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
def _attend(
    qkv,
    keys,
    values,
    position,
    out,
    slot_stride,
    scale,
    H: tl.constexpr,
    D: tl.constexpr,
    T: tl.constexpr,
    POSITIONS: tl.constexpr,
):
    """One row of one head: put its key and value into the cache, look at all that is live."""
    row, head = tl.program_id(0), tl.program_id(1)
    d = tl.arange(0, D)
    mine = qkv + row * 3 * H * D + head * D
    q = tl.load(mine + d).to(tl.float32) * scale
    key, value = tl.load(mine + H * D + d), tl.load(mine + 2 * H * D + d)
    now = tl.load(position + row).to(tl.int32)
    slot = row.to(tl.int64) * slot_stride + head * T * D
    tl.store(keys + slot + now * D + d, key.to(keys.dtype.element_ty))
    tl.store(values + slot + now * D + d, value.to(values.dtype.element_ty))
    # The new position is in hand; those before it are read, so no write is waited for.
    most = tl.sum(q * key.to(tl.float32), 0)
    weights = 1.0
    total = value.to(tl.float32)
    for first in range(0, now, POSITIONS):
        t = first + tl.arange(0, POSITIONS)
        live = t < now
        at = slot + t[:, None] * D + d[None, :]
        k = tl.load(keys + at, mask=live[:, None], other=0.0).to(tl.float32)
        v = tl.load(values + at, mask=live[:, None], other=0.0).to(tl.float32)
        score = tl.where(live, tl.sum(k * q[None, :], 1), -float("inf"))
        above = tl.maximum(most, tl.max(score, 0))
        e, shrink = tl.exp(score - above), tl.exp(most - above)
        weights = weights * shrink + tl.sum(e, 0)
        total = total * shrink + tl.sum(e[:, None] * v, 0)
        most = above
    tl.store(out + row * H * D + head * D + d, (total / weights).to(out.dtype.element_ty))


def linear(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    *,
    gain: Tensor | None = None,
    gelu: bool = False,
    add: bool = False,
) -> None:
    """out (R, O) = x (R, I) W^T, W (O, I); all contiguous.

    gain (I,): x is normed first (LayerNorm without bias); gelu: exact, of the product; add: += in
    place of =.
    """
    size_out, size_in = weight.shape
    inputs = triton.next_power_of_2(size_in)
    outputs = max(1, _TILE // inputs)
    launch: Any = _linear
    launch[(triton.cdiv(size_out, outputs),)](
        x,
        x if gain is None else gain,
        weight,
        out,
        size_in,
        size_out,
        R=x.shape[0],
        OUTPUTS=outputs,
        INPUTS=inputs,
        NORM=gain is not None,
        GELU=gelu,
        ADD=add,
        num_warps=_WARPS,
    )


def attend(qkv: Tensor, keys: Tensor, values: Tensor, position: Tensor, out: Tensor) -> None:
    """One new position in each of the first R slots of a layer's cache.

    qkv (R, 3C); keys, values (B, H, T, D), written at `position` (R,) int64; out (R, C).
    """
    _, heads, context, size = keys.shape
    launch: Any = _attend
    launch[(qkv.shape[0], heads)](
        qkv,
        keys,
        values,
        position,
        out,
        keys.stride(0),
        size**-0.5,
        H=heads,
        D=size,
        T=context,
        POSITIONS=_POSITIONS,
        num_warps=8,
    )


def fits(width: int, head_size: int, dtype: torch.dtype) -> bool:
    """Whether the kernels are made for a transformer of such numbers."""
    halves = (torch.bfloat16, torch.float16, torch.float32)
    return dtype in halves and 4 * width <= _TILE and head_size & (head_size - 1) == 0
