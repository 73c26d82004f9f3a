"""A prompt or a window in one call is the one made of torch's operations."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from synth.fused_forward import FusedForward
from synth.kv_cache import KVCache, Prefill
from synth.linear import (
    MakeLinear,
    PackedHalfLinear,
    PackedInt8Linear,
    PackedWideLinear,
    cpu_kernels,
    has_half_kernels,
)
from synth.model import Model, build_model
from synth.precision import StagePrecision
from synth.random_model import RANDOM, random_checkpoint
from synth.transformer import Transformer, attend_all, build_transformer

if cpu_kernels() is None:
    pytest.skip("no kernels for this processor", allow_module_level=True)

# Values on the edge are rounded the other way, and attention rounds to bfloat16 where there is one.
NEAR = 0.03
# Heads of 48, which are neither one vector of columns nor whole pairs of them.
WIDE = replace(
    RANDOM,
    **{
        f"{stage}_shape": replace(getattr(RANDOM, f"{stage}_shape"), width=192)
        for stage in ("semantic", "fine")
    },
)


no_half = pytest.mark.skipif(not has_half_kernels(), reason="no products of bfloat16 here")
HALF = pytest.param("bf16", marks=no_half)


@pytest.fixture(scope="module", params=["int8", HALF])
def model(request: pytest.FixtureRequest) -> Model:
    return build_model(random_checkpoint(WIDE), device="cpu", precision=request.param)


def normal(rows: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def of_torch(stage: str, linear: MakeLinear, attn_proj: MakeLinear | None = None) -> Transformer:
    """The same weights and rounding, one product at a time, and torch's operations between."""
    checkpoint = random_checkpoint(WIDE)
    shape = {"semantic": WIDE.semantic_shape, "fine": WIDE.fine_shape}[stage]
    return build_transformer(
        stage,
        shape,
        checkpoint.stages[stage],
        codebooks=WIDE.fine.codebooks if stage == "fine" else 0,
        device=torch.device("cpu"),
        precision=StagePrecision(torch.float32, torch.float32, linear, attn_proj=attn_proj),
    )


def cache_of(transformer: Transformer, slots: int = 3) -> KVCache:
    dtype = transformer.precision.cache_dtype
    return KVCache(transformer.shape, slots, device=torch.device("cpu"), dtype=dtype)


def made(model: Model, cache: KVCache) -> FusedForward:
    found = FusedForward.of(model.semantic, cache)
    assert found is not None
    return found


def off(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


@pytest.mark.parametrize(("first", "rows"), [(0, 1), (0, 130), (70, 7), (129, 190), (1, 64)])
def test_a_prompt_equals_torchs(model: Model, first: int, rows: int) -> None:
    """From the start and behind what is there; blocks, tiles and pairs that are full and not."""
    plain = of_torch("semantic", model.semantic.precision.linear)
    width = model.semantic.shape.width
    ours, theirs = cache_of(model.semantic), cache_of(plain)
    forward = made(model, ours)
    x = normal(first + rows, width)
    if first:
        plain(x[:first].clone(), Prefill(theirs, 1, 0, first))
        ours.k.copy_(theirs.k)
        ours.v.copy_(theirs.v)
    expected = plain(x[first:].clone(), Prefill(theirs, 1, first, rows))
    found = forward(x[first:].clone(), 1, first)
    assert off(found, expected) < NEAR
    for mine, other in ((ours.k, theirs.k), (ours.v, theirs.v)):
        assert off(mine[:, 1, :, first : first + rows], other[:, 1, :, first : first + rows]) < NEAR
        outside = torch.ones(mine.shape[3], dtype=torch.bool)
        outside[first : first + rows] = False
        assert torch.equal(mine[:, 1, :, outside], other[:, 1, :, outside].to(mine.dtype))
        assert not mine[:, 0].any()
        assert not mine[:, 2].any()


def test_a_position_sees_nothing_behind_it(model: Model) -> None:
    """To the last bit: a prompt's beginning is the same whatever follows."""
    x = normal(150, model.semantic.shape.width)
    whole, part = cache_of(model.semantic), cache_of(model.semantic)
    made(model, whole)(x.clone())
    made(model, part)(x[:77].clone())
    assert torch.equal(whole.k[:, 0, :, :77], part.k[:, 0, :, :77])
    assert torch.equal(whole.v[:, 0, :, :77], part.v[:, 0, :, :77])


def test_a_prompt_in_two_parts_is_the_prompt(model: Model) -> None:
    """What was read back from a cache of float32 is what stood there."""
    precision = replace(model.semantic.precision, cache_dtype=torch.float32)
    model = replace(model, semantic=replace(model.semantic, precision=precision))
    x = normal(150, model.semantic.shape.width)
    whole, parts = cache_of(model.semantic), cache_of(model.semantic)
    made(model, whole)(x.clone())
    forward = made(model, parts)
    forward(x[:90].clone())
    forward(x[90:].clone(), start=90)
    assert torch.equal(whole.k, parts.k)
    assert torch.equal(whole.v, parts.v)


@pytest.mark.parametrize(
    ("linear", "attn_proj"),
    [
        (PackedInt8Linear, PackedWideLinear),
        pytest.param(PackedInt8Linear, PackedHalfLinear, marks=no_half),
        pytest.param(PackedHalfLinear, None, marks=no_half),
    ],
)
@pytest.mark.parametrize(("rows", "needed"), [(64, 0), (100, 40), (63, 62)])
def test_a_window_equals_torchs(
    rows: int, needed: int, linear: MakeLinear, attn_proj: MakeLinear | None
) -> None:
    """All see each other; norms have biases; the first rows are not asked for."""
    packed = of_torch("fine", linear, attn_proj)
    forward = FusedForward.of(packed)
    assert forward is not None
    x = normal(rows, packed.shape.width)
    expected = packed(x.clone(), attend_all)
    found = forward(x.clone(), needed=needed)
    assert off(found[needed:], expected[needed:]) < NEAR


@pytest.mark.parametrize("precision", ["int8", HALF])
def test_threads_do_not_change_a_bit(precision: str) -> None:
    """Layers enough, and often enough, that one which did not wait for the others would."""
    config = replace(WIDE, semantic_shape=replace(WIDE.semantic_shape, n_layer=5))
    deep = build_model(random_checkpoint(config), device="cpu", precision=precision)
    x = normal(300, deep.semantic.shape.width)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        cache = cache_of(deep.semantic)
        expected = made(deep, cache)(x.clone())
        torch.set_num_threads(4)
        again = cache_of(deep.semantic)
        forward = made(deep, again)
        for _ in range(20):
            assert torch.equal(forward(x.clone()), expected)
            assert torch.equal(again.k, cache.k)
    finally:
        torch.set_num_threads(before)


def test_what_reaches_past_the_context_is_refused(model: Model) -> None:
    cache = cache_of(model.semantic)
    with pytest.raises(AssertionError, match="context"):
        made(model, cache)(normal(8, model.semantic.shape.width), start=cache.context - 7)
    with pytest.raises(AssertionError, match="slot"):
        made(model, cache)(normal(8, model.semantic.shape.width), slot=3)
    assert not cache.k[:, 1:].any()


def test_other_precisions_have_no_such_call() -> None:
    plain = build_model(random_checkpoint(WIDE), device="cpu", precision="fp32")
    assert FusedForward.of(plain.fine) is None


def test_a_compiler_that_fails_costs_only_speed(
    model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from synth import cpu_forward

    def broken(*_: object) -> None:
        raise RuntimeError("no room for a cache")

    monkeypatch.setattr(cpu_forward, "forward", broken)
    assert FusedForward.of(model.semantic, cache_of(model.semantic)) is None
    assert "no room for a cache" in caplog.text


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_index_is_out_of_bounds(tmp_path: Path) -> None:
    """All of this and the steps again, compiled with a check of every index."""
    files = [
        str(Path(__file__).with_name(f"test_fused_{name}.py")) for name in ("forward", "decode")
    ]
    checked = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-n", "0", "--timeout", "500", *files]
    done = subprocess.run(command, env=os.environ | checked, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
