"""What this machine can do at most, and what each stage asks of it: the least time it could take.

Measured are the rate at which memory is read and that of matrix products, torch's or our own,
whichever is faster; reckoned from the shapes are the bytes that decode steps must read (the weights
once a step, the keys and values of each job) and the operations of what is computed many positions
at a time: prefills, the fine stage, the codec. The larger of the two times, step by step, is a
stage's floor.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from synth.coarse import CoarseInput, total_steps
from synth.contenders import Case
from synth.helpers import Helpers
from synth.linear import (
    Int8Linear,
    PackedHalfLinear,
    PackedInt8Linear,
    PackedLinear,
    cpu_kernels,
    has_half_kernels,
    int8_limit,
)
from synth.protocol import Stage
from synth.vocab import ModelConfig, TransformerShape

_READ_BYTES = 1 << 29  # far more than any cache
_ROWS, _WIDTH = 1024, 1024  # of the products that are timed: the fine stage's

# Bytes of a weight and of a cached number, and how products may be made: the quickest way counts.
_PRECISIONS = {
    "fp32": (4, 4, ("fp32",)),
    "bf16": (2, 2, ("bf16", "fp32")),
    "int8": (1, 2, ("int8", "bf16", "fp32")),
}


@dataclass(frozen=True)
class Rates:
    """bytes_s: bytes read a second. flops_s: precision -> operations a second (a product is 2)."""

    bytes_s: float
    flops_s: Mapping[str, float]


@dataclass(frozen=True)
class Work:
    """One stage of a case. read_bytes: by decode steps. step_flops: in them; flops: elsewhere."""

    read_bytes: float = 0.0
    step_flops: float = 0.0
    flops: float = 0.0


def _best(work: Callable[[], object], repeats: int) -> float:
    """Seconds of the quickest of some runs."""
    work()
    times: list[float] = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def measure(*, repeats: int = 5, read_bytes: int = _READ_BYTES, width: int = _WIDTH) -> Rates:
    """This machine's rates with torch's current number of threads; a second or two."""
    numbers = torch.ones(read_bytes // 4)
    bytes_s = numbers.numel() * 4 / _best(numbers.sum, repeats)
    x, weight = torch.randn(_ROWS, width), torch.randn(4 * width, width)
    flops = 2 * _ROWS * width * 4 * width
    half_x, half_weight = x.bfloat16(), weight.bfloat16()
    products: dict[str, Callable[[], object]] = {
        "fp32": lambda: x @ weight.t(),
        "bf16": lambda: half_x @ half_weight.t(),
    }
    if int8_limit():
        eighth = Int8Linear(weight)
        products["int8"] = lambda: eighth(x)
    rates = {name: flops / _best(work, repeats) for name, work in products.items()}
    for name, linear in (("int8", PackedInt8Linear), ("bf16", PackedHalfLinear)):
        if compiled := _compiled_product(linear, weight, _ROWS):
            repeat, rows = compiled
            own = 2 * rows * width * 4 * width / _best(repeat, repeats)
            rates[name] = max(own, rates.get(name, 0.0))
    return Rates(bytes_s, rates)


def _compiled_product(
    make: type[PackedLinear], weight: Tensor, rows: int
) -> tuple[Callable[[], None], int] | None:
    """What multiplies `rows` rows or some more by our own products, where this processor has them;
    and how many rows.
    """
    kernels = cpu_kernels()
    if kernels is None or (make is PackedHalfLinear and not has_half_kernels()):
        return None
    from synth import cpu_forward as module  # which needs Numba

    linear = make(weight)
    whole = kernels.zeros(module.BLOCK, weight.shape[1], linear.dtype)
    most, helpers = np.ones(module.BLOCK, np.float32), Helpers("products", most=64)
    times = -(-rows // module.BLOCK)

    def own(_: int) -> tuple[np.ndarray, np.ndarray]:
        out = np.zeros((module.BLOCK, len(weight)), np.float32)
        return out, np.zeros((module.ROWS, module.PAIR), np.float32)

    def repeat() -> None:
        address, pieces = linear.packed.ctypes.data, module.pieces(1)
        work = (whole, most, address, linear.scale, linear.shift, times, pieces)
        helpers.run(module.repeat_product, work, own)

    return repeat, times * module.BLOCK


def _weights(shape: TransformerShape) -> int:
    return 12 * shape.n_layer * shape.width**2


def _decode(
    shape: TransformerShape, rows: int, steps: int, mean_live: float, jobs: int, sizes: tuple
) -> tuple[float, float]:
    """Bytes read and operations of `steps` steps of `jobs` jobs; rows: of the output head."""
    weights = _weights(shape) + rows * shape.width
    looked_at = 2 * shape.n_layer * shape.width * mean_live  # keys and values
    read = steps * (weights * sizes[0] + jobs * looked_at * sizes[1])
    return read, 2.0 * steps * jobs * (weights + looked_at)


def _window(shape: TransformerShape, positions: int, seen: float) -> float:
    """Operations of a pass over some positions, each of which looks at `seen` on average."""
    return 2.0 * positions * (_weights(shape) + 2 * shape.n_layer * shape.width * seen)


def _coarse_windows(case: Case, config: ModelConfig) -> tuple[list[tuple[int, int]], float]:
    """The positions each window must compute, (how many, the first), and the steps' mean length.

    Ids that never repeat: a window shares its beginning with the last one only where it must.
    """
    source = CoarseInput(case.history, config)
    source.extend(list(range(case.tokens)))
    source.complete = True
    prefills: list[tuple[int, int]] = []
    fed, live, count = np.zeros(0, dtype=np.int64), 0, 0
    while source.generated < source.total:
        begin, window = source.generated, source.window()
        steps = source.window_end(begin) - begin
        overlap = min(len(fed), len(window) - 1)
        differs = np.flatnonzero(fed[:overlap] != window[:overlap])
        keep = int(differs[0]) if len(differs) else overlap
        if new := len(window) - 1 - keep:
            prefills.append((new, keep))
        made = list(range(10**6 + begin, 10**6 + begin + steps))
        fed = np.concatenate([window, made[:-1]])
        source.append(made)
        live += sum(range(len(window), len(window) + steps))
        count += steps
    return prefills, live / count


def _codec_flops(frames: int, config: ModelConfig) -> float:
    codec = config.codec
    width = codec.n_filters * 2 ** len(codec.ratios)
    per_frame = codec.dimension * width * codec.kernel_size + codec.lstm * 8 * width**2
    rate = 1
    for ratio in codec.ratios:
        per_frame += rate * width * (width // 2) * 2 * ratio
        rate, width = rate * ratio, width // 2
        hidden = width // codec.compress
        block = width * hidden * (codec.residual_kernel_size + 1)
        per_frame += codec.n_residual_layers * rate * (block + (0 if codec.true_skip else width**2))
    return 2.0 * frames * (per_frame + rate * width * codec.last_kernel_size)


def work(case: Case, config: ModelConfig, precision: str) -> dict[Stage, Work]:
    """What each stage of a case must do, in "fp32", "bf16" or "int8"."""
    sizes, jobs = _PRECISIONS[precision], case.jobs
    semantic, coarse, fine = config.semantic_shape, config.coarse_shape, config.fine_shape
    prompt = config.text.block + 1
    read, steps = _decode(
        semantic,
        config.semantic.vocab + 1,
        case.tokens,
        prompt + case.tokens / 2,
        jobs,
        sizes,
    )
    prefill = jobs * _window(semantic, prompt - 1, prompt / 2)
    found = {Stage.SEMANTIC: Work(read, steps, prefill)}

    ids = total_steps(case.tokens, config)
    windows, mean_live = _coarse_windows(case, config)
    read, steps = _decode(coarse, config.codec.codebook_size, ids, mean_live, jobs, sizes)
    prefill = sum(_window(coarse, new, keep + new / 2) for new, keep in windows)
    found[Stage.COARSE] = Work(read, steps, jobs * prefill)

    frames = ids // config.coarse.codebooks
    numbers = config.fine
    past = 0 if case.history is None else min(case.history.fine_codes.shape[1], numbers.hop)
    passes = numbers.codebooks - config.coarse.codebooks
    count = 1 + max(0, -(-(past + frames - numbers.window) // numbers.hop))
    one = _window(fine, numbers.window, numbers.window)
    head = 2.0 * min(frames, numbers.window) * fine.width * config.codec.codebook_size
    found[Stage.FINE] = Work(flops=jobs * count * passes * (one + head))
    found[Stage.CODEC] = Work(flops=jobs * _codec_flops(frames, config))
    return found


def floors(case: Case, config: ModelConfig, precision: str, rates: Rates) -> dict[Stage, float]:
    """The least seconds of each stage of a case at those rates."""
    best = max(rates.flops_s.get(name, 0.0) for name in _PRECISIONS[precision][2])
    seconds: dict[Stage, float] = {}
    for stage, asked in work(case, config, precision).items():
        steps = max(asked.read_bytes / rates.bytes_s, asked.step_flops / best)
        # The codec is single precision in any case.
        rate = rates.flops_s["fp32"] if stage is Stage.CODEC else best
        seconds[stage] = steps + asked.flops / rate
    return seconds
