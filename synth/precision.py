"""In what precision each stage holds its weights and computes: a name, and what a machine can do.

On a CPU `auto` is fp32, Bark's own numbers. Of the distributions sampled from (temperature 0.7,
random weights of the small size, 200 positions) fp32's have a mean Kullback-Leibler divergence of
0.0025, 0.0018 and 0.0012 nats from bf16's (semantic, coarse, fine) and of 0.017, 0.014 and 0.0012
from int8's: int8 is to be chosen, not met. Knows nothing of shapes or tokens.
"""

from dataclasses import dataclass
from typing import Final

import torch

from synth.errors import InvalidRequest
from synth.linear import Int8Linear, Linear, MakeLinear, has_fast_bf16, int8_limit

PRECISIONS: Final = ("auto", "fp32", "bf16", "fp16", "int8")

_DTYPES = {
    "fp64": torch.float64,  # for tests, where rounding must not matter
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True)
class StagePrecision:
    """How one transformer is held: activations and tables, keys and values, weights."""

    dtype: torch.dtype
    cache_dtype: torch.dtype
    linear: MakeLinear = Linear


@dataclass(frozen=True)
class Precision:
    """A resolved precision: never "auto"."""

    name: str
    decoding: StagePrecision  # semantic and coarse: a row at a time, bound by reading weights
    fine: StagePrecision  # a window at a time, bound by multiplying


def pick_precision(name: str, device: torch.device) -> Precision:
    """Resolve one of PRECISIONS, or "fp64", on a device.

    "auto" is half precision on CUDA and single precision elsewhere.
    Raises InvalidRequest for a name that is unknown or that the device has not got.
    """
    if name not in (*PRECISIONS, "fp64"):
        raise InvalidRequest(
            f"There is no precision {name!r}; use auto, fp32, bf16, fp16 (CUDA) or int8 (CPU)."
        )
    if name == "auto":
        name = _automatic(device)
    fits = {
        "cpu": ("fp64", "fp32", "bf16", "int8"),
        "cuda": ("fp64", "fp32", "bf16", "fp16"),
    }
    if name not in fits.get(device.type, ("fp32",)):
        raise InvalidRequest(f"Precision {name} is not for {device.type}; use auto or fp32.")
    if name != "int8":
        stage = _plain(_DTYPES[name], device)
        return Precision(name, stage, stage)
    if not int8_limit():
        raise InvalidRequest(
            "This machine or build of torch has no 8 bit products (oneDNN on x86); use fp32."
        )
    # Activations stay single precision: what int8 saves is the reading of weights.
    decoding = StagePrecision(torch.float32, _half_cache(), Int8Linear)
    if has_fast_bf16():
        return Precision(name, decoding, _plain(torch.bfloat16, device))
    return Precision(name, decoding, decoding)


def _automatic(device: torch.device) -> str:
    if device.type == "cuda":
        # By capability: torch says yes to bf16 on older cards too, and then emulates it.
        major, _ = torch.cuda.get_device_capability(device)
        return "bf16" if major >= 8 else "fp16"
    return "fp32"


def _plain(dtype: torch.dtype, device: torch.device) -> StagePrecision:
    halved = device.type == "cpu" and dtype == torch.bfloat16
    return StagePrecision(dtype, _half_cache() if halved else dtype)


def _half_cache() -> torch.dtype:
    """The dtype of keys and values beside 8 or 16 bit weights on a CPU.

    Attention over bfloat16 takes half the time of float32 where the processor has AMX (110 against
    206 us for 600 positions of 12 heads), and several times as long where it has not.
    """
    has_amx = torch.cpu.get_capabilities().get("amx_bf16", False)
    return torch.bfloat16 if has_amx else torch.float32
