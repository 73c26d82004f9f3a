"""In what precision each stage holds its weights and computes: a name, and what a machine can do.

On a CPU `auto` is, stage by stage, the fastest that the machine is fast at and whose recorded
distance from fp32, Bark's own numbers, is within `synth.bound`. Knows nothing of shapes or tokens.
"""

import logging
from dataclasses import dataclass, replace
from typing import Final

import torch

from synth import bound
from synth.errors import InvalidRequest
from synth.linear import (
    Int8Linear,
    Linear,
    MakeLinear,
    PackedHalfLinear,
    PackedInt8Linear,
    PackedWideLinear,
    decoding_linear,
    has_amx,
    has_fast_bf16,
    has_half_kernels,
    has_narrow_rows,
    int8_limit,
)
from synth.protocol import Stage

log = logging.getLogger(__name__)

PRECISIONS: Final = ("auto", "fp32", "bf16", "fp16", "int8")

# Transformers of fewer weights than this stay in single precision on a CPU: a processor's cache
# holds them, so that half the bytes save little, and a small model has less to spare.
SMALL_WEIGHTS: Final = 20_000_000

# Weights in 8 bits, and rows in 16 in all stages: no name to ask for, but one that `auto` can find.
_WIDE: Final = "int8-wide"
_FASTEST_FIRST: Final = ("int8", _WIDE, "bf16")  # on a CPU
_TRANSFORMERS: Final = (Stage.SEMANTIC, Stage.COARSE, Stage.FINE)

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
    attn_proj: MakeLinear | None = None  # of what attention gives; None: linear


@dataclass(frozen=True)
class Precision:
    """A resolved precision: never "auto". Stages that differ are all named."""

    name: str
    semantic: StagePrecision  # a row at a time, bound by reading weights
    coarse: StagePrecision  # the same, and a prompt for every few steps
    fine: StagePrecision  # a window at a time, bound by multiplying


def pick_precision(name: str, device: torch.device, *, weights: int | None = None) -> Precision:
    """Resolve one of PRECISIONS, or "fp64", on a device.

    weights: how many the model's largest transformer has; None is many.
    "auto" is half precision on CUDA; on a CPU each stage's is the fastest one within the bound, of
    those that the processor is fast at, and single precision for a small model; single precision
    elsewhere.
    Raises InvalidRequest for a name that is unknown or that the device has not got.
    """
    if name not in (*PRECISIONS, "fp64"):
        raise InvalidRequest(
            f"There is no precision {name!r}; use auto, fp32, bf16, fp16 (CUDA) or int8 (CPU)."
        )
    if name != "auto":
        return _resolve(name, device)
    names = automatic(device, weights)
    other = device.type == "cpu" and _is_large(weights) and set(names.values()) != {"int8"}
    if other and _fast_on_cpu()[_WIDE]:
        log.info(
            "Of this size 8 bits are not within the bound in all stages: semantic is made in %s, "
            'coarse in %s, fine in %s. Precision "int8" is faster.',
            *names.values(),
        )
    if len(set(names.values())) == 1:
        return _resolve(names[Stage.FINE], device)
    picked = [getattr(_resolve(chosen, device), str(stage)) for stage, chosen in names.items()]
    return Precision(", ".join(f"{stage} {chosen}" for stage, chosen in names.items()), *picked)


def _resolve(name: str, device: torch.device) -> Precision:
    if name == _WIDE:
        stage = StagePrecision(torch.float32, torch.bfloat16, PackedWideLinear, torch.bfloat16)
        return Precision(name, stage, stage, replace(stage, table_dtype=None))
    fits = {
        "cpu": ("fp64", "fp32", "bf16", "int8"),
        "cuda": ("fp64", "fp32", "bf16", "fp16"),
    }
    if name not in fits.get(device.type, ("fp32",)):
        raise InvalidRequest(f"Precision {name} is not for {device.type}; use auto or fp32.")
    if name == "int8":
        return _int8(device)
    stage = fine = _plain(_DTYPES[name], device)
    if name == "bf16" and device.type == "cpu" and has_half_kernels():
        # Compiled: a step takes a third of the time of one made of torch's operations.
        half = torch.bfloat16
        stage = StagePrecision(torch.float32, half, PackedHalfLinear, half)
        fine = fine if has_amx() else stage
    return Precision(name, stage, stage, fine)


def _int8(device: torch.device) -> Precision:
    # Activations stay single precision: what int8 saves is the reading of weights. The table of
    # the text stage is as large as all its blocks in 8 bits; a row of it is read a step.
    linear = semantic_linear = decoding_linear()
    attn_proj, cache = None, _half_cache()
    if linear is PackedInt8Linear:
        # The stage with the steepest distributions, and one prompt a clip: what it costs to round
        # its rows to 16 bits is hardly seen. In fine that pays for what attention gives, where a
        # head that looks at a few positions is many times as large as one that looks at all: a
        # fifth of the distance from fp32, for a twelfth of the products. In coarse it changed
        # little, and costs more beside long prompts.
        semantic_linear, cache = PackedWideLinear, torch.bfloat16
        attn_proj = PackedHalfLinear if has_half_kernels() else PackedWideLinear
    elif not int8_limit():
        raise InvalidRequest(
            "This machine or build of torch has no 8 bit products (AVX2 on x86); use fp32."
        )
    semantic, coarse = (
        StagePrecision(torch.float32, cache, made_by, torch.bfloat16)
        for made_by in (semantic_linear, linear)
    )
    if has_amx() or (has_fast_bf16() and linear is Int8Linear):
        return Precision("int8", semantic, coarse, _plain(torch.bfloat16, device))
    fine = StagePrecision(torch.float32, cache, linear, attn_proj=attn_proj)
    return Precision("int8", semantic, coarse, fine)


def automatic(device: torch.device, weights: int | None) -> dict[Stage, str]:
    """Which of PRECISIONS "auto" is for each of the three transformers, in their order."""
    if device.type == "cuda":
        # By capability: torch says yes to bf16 on older cards too, and then emulates it.
        major, _ = torch.cuda.get_device_capability(device)
        return dict.fromkeys(_TRANSFORMERS, "bf16" if major >= 8 else "fp16")
    if device.type != "cpu" or not _is_large(weights):
        return dict.fromkeys(_TRANSFORMERS, "fp32")
    recorded, fast = bound.recorded(weights), _fast_on_cpu()

    def fastest(stage: Stage) -> str:
        for name in _FASTEST_FIRST:
            if fast[name] and recorded[name][stage].is_within:
                return "int8" if name == _WIDE and not fast["int8"] else name
        return "fp32"

    return {stage: fastest(stage) for stage in _TRANSFORMERS}


def _is_large(weights: int | None) -> bool:
    return weights is None or weights >= SMALL_WEIGHTS


def _fast_on_cpu() -> dict[str, bool]:
    packed = decoding_linear() is PackedInt8Linear
    # Where all rows are wide, int8 is what was measured as that.
    return {"int8": packed and has_narrow_rows(), _WIDE: packed, "bf16": has_fast_bf16()}


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
