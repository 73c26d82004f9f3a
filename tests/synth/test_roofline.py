"""The least work of each stage: reckoned from shapes, held against what the engine really does."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from synth import roofline
from synth.bench import random_history
from synth.coarse import CoarseStage
from synth.contenders import Case, Ours
from synth.linear import PackedInt8Linear, cpu_kernels
from synth.model import build_model
from synth.protocol import Stage
from synth.roofline import Rates
from synth.vocab import BARK_SMALL
from tests.synth.tiny import RANDOM, tiny_checkpoint, tiny_model


@pytest.mark.parametrize("voiced", [False, True])
def test_coarse_prefills_are_those_that_the_engine_computes(
    monkeypatch: pytest.MonkeyPatch, voiced: bool
) -> None:
    stages: list[CoarseStage] = []
    start = CoarseStage.start_window
    monkeypatch.setattr(
        CoarseStage, "start_window", lambda self, *a: (stages.append(self), start(self, *a))[1]
    )
    case = Case(120, 1, random_history(RANDOM) if voiced else None)
    Ours(build_model(tiny_checkpoint(), device="cpu", precision="fp32")).make(case, lambda _: None)
    windows, mean_live = roofline._coarse_windows(case, RANDOM)
    computed = sum(new for new, _ in windows)
    assert computed == pytest.approx(stages[-1].prefilled, rel=0.02)
    assert RANDOM.coarse.semantic_block < mean_live < RANDOM.coarse_shape.context


def test_the_codecs_operations_are_those_of_its_modules() -> None:
    """Up to the recurrent layers, which torch does not count."""
    frames = 200
    codec = tiny_model().codec
    codes = torch.zeros(RANDOM.fine.codebooks, frames, dtype=torch.int64).numpy()
    with FlopCounterMode(display=False) as counted:
        codec.decode(codes)
    width = RANDOM.codec.n_filters * 2 ** len(RANDOM.codec.ratios)
    lstm = 2.0 * frames * RANDOM.codec.lstm * 8 * width**2
    reckoned = roofline._codec_flops(frames, RANDOM) - lstm
    assert reckoned == pytest.approx(counted.get_total_flops(), rel=0.1)


def test_decode_steps_read_the_weights_once_for_all_jobs() -> None:
    one, eight = (roofline.work(Case(250, jobs), BARK_SMALL, "int8") for jobs in (1, 8))
    weights = 12 * 12 * 768**2 + 10_001 * 768
    assert one[Stage.SEMANTIC].read_bytes == pytest.approx(250 * weights, rel=0.2)
    assert eight[Stage.COARSE].read_bytes < 3 * one[Stage.COARSE].read_bytes
    for stage in Stage:
        assert eight[stage].flops == pytest.approx(8 * one[stage].flops)


def test_a_floor_is_the_larger_of_reading_and_computing() -> None:
    case = Case(250)
    asked = roofline.work(case, BARK_SMALL, "bf16")
    rates = {"fp32": 1e12, "bf16": 1e15}
    slow_memory = roofline.floors(case, BARK_SMALL, "bf16", Rates(1e9, rates))
    semantic = asked[Stage.SEMANTIC]
    assert slow_memory[Stage.SEMANTIC] == pytest.approx(semantic.read_bytes / 1e9, rel=1e-3)
    assert slow_memory[Stage.FINE] == pytest.approx(asked[Stage.FINE].flops / 1e15)
    fast_memory = roofline.floors(case, BARK_SMALL, "bf16", Rates(1e18, rates))
    computed = semantic.step_flops + semantic.flops
    assert fast_memory[Stage.SEMANTIC] == pytest.approx(computed / 1e15)


def test_the_machines_rates_are_measured() -> None:
    rates = roofline.measure(repeats=1, read_bytes=1 << 22, width=64)
    assert rates.bytes_s > 1e6 and min(rates.flops_s.values()) > 1e6
    assert {"fp32", "bf16"} <= set(rates.flops_s)


def test_what_is_timed_of_our_own_products_are_products() -> None:
    if (kernels := cpu_kernels()) is None:
        pytest.skip("no kernels for this processor")
    from synth import cpu_forward as module

    linear = PackedInt8Linear(torch.randn(96, 48, generator=torch.Generator().manual_seed(0)))
    rows = kernels.zeros(module.BLOCK, 48, linear.dtype)
    rows[:] = np.random.default_rng(0).integers(0, 200, rows.shape)
    most = np.full(module.BLOCK, 2.0, np.float32)
    out, spare = np.zeros((module.BLOCK, 96), np.float32), np.zeros((module.ROWS, module.PAIR))
    own = (out, spare.astype(np.float32))
    numbers = (rows, most, linear.packed.ctypes.data, linear.scale, linear.shift)
    module.repeat_product(*numbers, 3, module.pieces(1), own)
    one = np.zeros((1, 96), np.float32)
    for row in (0, module.BLOCK - 1):
        counter = kernels.pieces(1)
        weights = (linear.packed.ctypes.data, linear.scale, linear.shift)
        kernels._multiply(rows[row : row + 1], most[:1], *weights, one, False, counter.ctypes.data)
        np.testing.assert_array_equal(out[row], one[0])
