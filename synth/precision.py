"""In what precision each stage holds its weights and computes: a name, and what a machine can do.

On a CPU `auto` is the fastest that the machine is fast at and whose recorded distance from fp32,
Bark's own numbers, is within `synth.bound`. Knows nothing of shapes or tokens.
"""

import logging
from dataclasses import dataclass
from typing import Final

import torch

from synth import bound
from synth.errors import InvalidRequest
from synth.linear import (
    Int8Linear,
    Linear,
    MakeLinear,
    PackedInt8Linear,
    PackedWideLinear,
    decoding_linear,
    has_amx,
    has_fast_bf16,
    int8_limit,
)

log = logging.getLogger(__name__)

PRECISIONS: Final = ("auto", "fp32", "bf16", "fp16", "int8")

# Transformers of fewer weights than this stay in single precision on a CPU: a processor's cache
# holds them, so that half the bytes save little, and a small model has less to spare.
SMALL_WEIGHTS: Final = 20_000_000

_FASTEST_FIRST: Final = ("int8", "bf16")  # on a CPU

_DTYPES = {
    "fp64": torch.float64,  # for tests, where rounding must not matter
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True)
class StagePrecision:
    """How one transformer is held: activations, keys and values, weights, tables of tokens."""

    dtype: torch.dtype
    cache_dtype: torch.dtype
    linear: MakeLinear = Linear
    table_dtype: torch.dtype | None = None  # of heads before they are products, too; None: dtype


@dataclass(frozen=True)
class Precision:
    """A resolved precision: never "auto"."""

    name: str
    semantic: StagePrecision  # a row at a time, bound by reading weights
    coarse: StagePrecision  # the same, and a prompt for every few steps
    fine: StagePrecision  # a window at a time, bound by multiplying


def pick_precision(name: str, device: torch.device, *, weights: int | None = None) -> Precision:
    """Resolve one of PRECISIONS, or "fp64", on a device.

    weights: how many the model's largest transformer has; None is many.
    "auto" is half precision on CUDA; on a CPU the fastest one within the bound, of those that the
    processor is fast at, and single precision for a small model; single precision elsewhere.
    Raises InvalidRequest for a name that is unknown or that the device has not got.
    """
    if name not in (*PRECISIONS, "fp64"):
        raise InvalidRequest(
            f"There is no precision {name!r}; use auto, fp32, bf16, fp16 (CUDA) or int8 (CPU)."
        )
    if name == "auto":
        name = _automatic(device, weights)
    fits = {
        "cpu": ("fp64", "fp32", "bf16", "int8"),
        "cuda": ("fp64", "fp32", "bf16", "fp16"),
    }
    if name not in fits.get(device.type, ("fp32",)):
        raise InvalidRequest(f"Precision {name} is not for {device.type}; use auto or fp32.")
    if name != "int8":
        stage = _plain(_DTYPES[name], device)
        return Precision(name, stage, stage, stage)
    # Activations stay single precision: what int8 saves is the reading of weights. The table of
    # the text stage is as large as all its blocks in 8 bits; a row of it is read a step.
    linear = semantic_linear = decoding_linear()
    cache = _half_cache()
    if linear is PackedInt8Linear:
        # The stage with the steepest distributions, and one prompt a clip: what it costs to round
        # its rows to 16 bits is hardly seen.
        semantic_linear, cache = PackedWideLinear, torch.bfloat16
    elif not int8_limit():
        raise InvalidRequest(
            "This machine or build of torch has no 8 bit products (AVX2 on x86); use fp32."
        )
    semantic, coarse = (
        StagePrecision(torch.float32, cache, made_by, torch.bfloat16)
        for made_by in (semantic_linear, linear)
    )
    if has_amx() or (has_fast_bf16() and linear is Int8Linear):
        return Precision(name, semantic, coarse, _plain(torch.bfloat16, device))
    return Precision(name, semantic, coarse, StagePrecision(torch.float32, cache, linear))


def _automatic(device: torch.device, weights: int | None) -> str:
    if device.type == "cuda":
        # By capability: torch says yes to bf16 on older cards too, and then emulates it.
        major, _ = torch.cuda.get_device_capability(device)
        return "bf16" if major >= 8 else "fp16"
    if device.type == "cpu" and (weights is None or weights >= SMALL_WEIGHTS):
        fast = {"int8": decoding_linear() is PackedInt8Linear, "bf16": has_fast_bf16()}
        for name in _FASTEST_FIRST:
            if not fast[name]:
                continue
            if bound.admits(bound.recorded(weights)[name]):
                return name
            if name == "int8":
                log.info(
                    "8 bits would be three to four times as fast; of this size they are further "
                    'from fp32 than is taken unasked. Set the precision to "int8" to have them.'
                )
    return "fp32"


def _plain(dtype: torch.dtype, device: torch.device) -> StagePrecision:
    halved = device.type == "cpu" and dtype == torch.bfloat16
    return StagePrecision(dtype, _half_cache() if halved else dtype)


def _half_cache() -> torch.dtype:
    """The dtype of keys and values that torch looks back on, beside 8 or 16 bit weights on a CPU.

    Its attention over bfloat16 takes half the time of float32 where the processor has AMX (110
    against 206 us for 600 positions of 12 heads), and several times as long where it has not. The
    compiled steps read half the memory in any case.
    """
    return torch.bfloat16 if has_amx() else torch.float32
