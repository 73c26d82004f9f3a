"""A decode step's operations on a GPU: `gpu_kernels`, launched in the right sizes.

Import needs Triton, as that does.

Shape letters: R rows, C width, H heads, D head size, T positions of a slot, P parts of those, V
vocabulary, B slots.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
from torch import Tensor

from synth import gpu_kernels
from synth.slot_draws import SlotState

MOST_ROWS = 16  # the narrowest tile of a card's matrix units
# So many rows are multiplied one after the other. us of a layer's four products on an H200, 2 and 4
# rows: 16.5 and 26.5 so, 28.7 and 21.9 all at once.
FEW_ROWS = 3
_WIDEST = 1024  # what can be normed
# Found by trying, on an H200.
_TILE, _WARPS = 8192, 4  # weights that a program of few rows holds
_OUTPUTS, _INPUTS, _ROWS_WARPS = 16, 1024, 4  # of a program of more rows
_POSITIONS, _PART_WARPS = 64, 2  # that a program of attention looks at


@dataclass(frozen=True)
class Scratch:
    """Where programs leave their part of a sum for the one that adds up, call after call.

    Counts are of the parts that are there, and zero between two calls.
    """

    attention_sums: Tensor  # (R, H, P, D) float32
    attention_scales: Tensor  # (R, H, P, 2) float32
    attention_counts: Tensor  # (R, H) int32
    product_sums: Tensor  # (tiles, pieces, outputs, rows) float32, of the widest product
    product_counts: Tensor  # (tiles,) int32


def scratch_for(rows: int, heads: int, context: int, size: int, device: torch.device) -> Scratch:
    """For calls of up to so many rows of one transformer, one after the other."""
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

    gain (I,), I <= 1024: x is normed first (LayerNorm without bias); gelu: exact, of the product;
    add: += in place of =. scratch: of the transformer that this is a part of. More rows than
    `most_rows` says are right too, where the card has room for them, but torch is faster. The
    weights and the gain are older than the kernel in front.
    """
    rows, (size_out, size_in) = x.shape[0], weight.shape
    early = _starts_early(x.device)
    launch: Any
    options: dict[str, Any] = {"NORM": gain is not None, "GELU": gelu, "ADD": add, "EARLY": early}
    if early:
        options["launch_pdl"] = True
    tensors = (x, x if gain is None else gain, weight, out)
    if rows <= FEW_ROWS:
        launch, wide = gpu_kernels.linear, triton.next_power_of_2(size_in)
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
    launch = gpu_kernels.linear_rows
    inputs = min(_INPUTS, triton.next_power_of_2(size_in))
    tiles, pieces = triton.cdiv(size_out, _OUTPUTS), triton.cdiv(size_in, inputs)
    if pieces > 1:
        has_tiles, has_pieces, *_ = scratch.product_sums.shape
        assert gain is None and tiles <= has_tiles and pieces <= has_pieces
    launch[(tiles, pieces)](
        *tensors,
        scratch.product_sums,
        scratch.product_counts,
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
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= (9, 0)


def attend(
    qkv: Tensor, keys: Tensor, values: Tensor, position: Tensor, out: Tensor, scratch: Scratch
) -> None:
    """One new position in each of the first R slots of a layer's cache.

    qkv (R, 3C); keys, values (B, H, T, D), written at `position` (R,) int64; out (R, C).
    scratch: of these sizes, for R rows at least.
    """
    _, heads, context, size = keys.shape
    many, early = scratch.attention_sums.shape[2], _starts_early(qkv.device)
    launch: Any = gpu_kernels.attend
    options = {"launch_pdl": True} if early else {}
    launch[(qkv.shape[0], heads, many)](
        qkv,
        keys,
        values,
        position,
        out,
        scratch.attention_sums,
        scratch.attention_scales,
        scratch.attention_counts,
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

    logits (R, V) float32; noise (N, B, V) float32, of which that at `noise_at` (1,) int64 is used;
    both of these are older than the kernel in front.
    Returns head rows (R,) int64 and whether they end the sequence (R,) bool.
    """
    rows, vocab = logits.shape
    row = torch.empty(rows, dtype=torch.int64, device=logits.device)
    ended = torch.empty(rows, dtype=torch.bool, device=logits.device)
    block, early = triton.next_power_of_2(vocab), _starts_early(logits.device)
    launch: Any = gpu_kernels.draw
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


def most_rows(dtype: torch.dtype, device: torch.device) -> int:
    """Up to how many rows the kernels take, and are faster than torch's products.

    Those for more rows are made for 16 bits and for Ampere and later: before, the compiler finds no
    place for what they hold.
    """
    if dtype.itemsize > 2:
        return FEW_ROWS
    new = device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)
    return MOST_ROWS if new else FEW_ROWS


def fits(width: int, head_size: int, dtype: torch.dtype) -> bool:
    """Whether there are kernels for a transformer of such numbers."""
    dtypes = (torch.bfloat16, torch.float16, torch.float32)
    return dtype in dtypes and width <= _WIDEST and head_size & (head_size - 1) == 0
