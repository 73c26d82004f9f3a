"""A fused step is the step made of torch's operations, and no row sees another."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from synth import fused_decode, helpers, linear
from synth.fused_decode import FusedDecode
from synth.linear import PackedInt8Linear, PackedLinear, cpu_kernels, has_half_kernels, int8_limit
from synth.model import Model, build_model
from synth.random_model import RANDOM, random_checkpoint
from synth.slot_draws import Draw
from synth.stepper import Stepper
from synth.transformer import build_transformer

needs_kernels = pytest.mark.skipif(cpu_kernels() is None, reason="no kernels for this processor")
no_half = pytest.mark.skipif(not has_half_kernels(), reason="no products of bfloat16 here")
SLOTS = 9


@pytest.fixture(
    scope="module", params=["int8", "int8 as coarse", pytest.param("bf16", marks=no_half)]
)
def model(request: pytest.FixtureRequest) -> Model:
    """Coarse rounds most rows to 8 bits where that is faster, semantic none."""
    name, _, as_coarse = request.param.partition(" ")
    checkpoint = random_checkpoint(RANDOM)
    model = build_model(checkpoint, device="cpu", precision=name)
    if not as_coarse:
        return model
    semantic = build_transformer(
        "semantic",
        RANDOM.semantic_shape,
        checkpoint.stages["semantic"],
        device=torch.device("cpu"),
        precision=model.coarse.precision,
    )
    return replace(model, semantic=semantic)


def stepper(model: Model, slots: int = SLOTS) -> Stepper:
    made = Stepper(model.semantic, [model.semantic.heads[0]], [0], slots=slots)
    rng = np.random.default_rng(0)
    for slot in range(slots):
        made.open(slot, Draw(key=slot, temperature=0.0))
        ids = rng.integers(0, 100, 5 + 3 * slot)
        made.prefill(slot, made.embed(ids), pending=int(slot))
    return made


@needs_kernels
@pytest.mark.parametrize(("cache", "near"), [(torch.float32, 3e-3), (torch.bfloat16, 0.03)])
def test_logits_are_those_of_the_unfused_step(
    model: Model, cache: torch.dtype, near: float
) -> None:
    """As near as the order of sums allows: a value on the edge may be rounded the other way.

    Beside a cache of bfloat16 torch's attention rounds its query and its result too.
    """
    precision = replace(model.semantic.precision, cache_dtype=cache)
    model = replace(model, semantic=replace(model.semantic, precision=precision))
    fused, plain = stepper(model), stepper(model)
    assert fused._fused is not None
    plain._fused = None
    slots = list(range(SLOTS))
    positions = [fused.live[slot] for slot in slots]
    x = torch.randn(SLOTS, RANDOM.semantic_shape.width, generator=torch.Generator().manual_seed(1))
    rows = plain._rows(slots)
    attend = plain._attend(rows, torch.tensor(positions), 0)
    expected = plain._heads[0](plain._transformer(x.clone(), attend))
    found = fused._fused(x.clone(), slots, positions, 0)
    off = (found - expected).norm() / expected.norm()
    assert off < near
    off = (fused.cache.k - plain.cache.k).float().norm() / plain.cache.k.float().norm()
    assert off < near


@needs_kernels
@pytest.mark.parametrize("rows", [2, 4, 8, 9])
def test_no_row_sees_another(model: Model, rows: int) -> None:
    """To the last bit, whatever tile of rows a row falls into."""
    together, alone = stepper(model), stepper(model)
    made = together.run(6, list(range(rows))).tokens
    for slot in range(rows):
        assert np.array_equal(alone.run(6, [slot]).tokens[:, 0], made[:, slot])
    assert torch.equal(together.cache.k[:, :rows], alone.cache.k[:, :rows])
    assert torch.equal(together.cache.v[:, :rows], alone.cache.v[:, :rows])


@needs_kernels
def test_tables_of_tokens_take_half_the_memory(model: Model) -> None:
    assert model.semantic.wtes[0].dtype == torch.bfloat16
    assert isinstance(model.semantic.blocks[0].c_attn, PackedLinear)


@needs_kernels
def test_a_compiler_that_fails_costs_only_speed(
    model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no room for a cache")

    monkeypatch.setattr(cpu_kernels(), "decode", broken)
    made = stepper(model, slots=1)
    assert made._fused is None
    assert "no room for a cache" in caplog.text
    assert made.run(2, [0]).tokens.shape == (2, 1)


def test_without_kernels_int8_is_made_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "cpu_kernels", lambda: None)
    monkeypatch.setattr(fused_decode, "cpu_kernels", lambda: None)
    if not int8_limit():
        pytest.skip("no 8 bit products on this machine")
    plain = build_model(random_checkpoint(RANDOM), device="cpu", precision="int8")
    assert not isinstance(plain.semantic.blocks[0].c_attn, PackedInt8Linear)
    assert stepper(plain, slots=1)._fused is None


@needs_kernels
def test_other_precisions_have_no_such_step() -> None:
    plain = build_model(random_checkpoint(RANDOM), device="cpu", precision="fp32")
    one = stepper(plain, slots=1)
    assert FusedDecode.of(plain.semantic, one._heads, one.cache) is None


@needs_kernels
def test_what_reaches_past_the_context_is_refused(model: Model) -> None:
    """The compiled step checks no bounds: it wrote into the memory that came next."""
    one = stepper(model, slots=2)
    assert one._fused is not None
    before = one.cache.k.clone()
    x = torch.zeros(2, RANDOM.semantic_shape.width)
    with pytest.raises(AssertionError, match="context"):
        one._fused(x, [0, 1], [3, one.cache.context], 0)
    assert torch.equal(one.cache.k, before)


@needs_kernels
def test_threads_do_not_change_a_bit(model: Model) -> None:
    """Whoever takes which piece of a step, and however late a helper comes."""
    before = torch.get_num_threads()
    made = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            one = stepper(model, slots=3)
            made.append((one.run(40, [0, 1, 2]).tokens, one.cache.k.clone()))
    finally:
        torch.set_num_threads(before)
    for tokens, keys in made[1:]:
        assert np.array_equal(tokens, made[0][0])
        assert torch.equal(keys, made[0][1])


@needs_kernels
def test_a_helper_that_is_late_is_not_waited_for(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may come when the step is over, and the one after that: it finds nothing left to do."""
    late: list[Callable[[], None]] = []

    class Late:
        is_free = True

        def __init__(self, *_: object) -> None: ...

        def settle(self) -> None: ...

        def help(self, step: Callable[..., None], *args: object) -> None:
            late.append(partial(step, *args))

    monkeypatch.setattr(helpers, "_Helper", Late)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    helped, alone = stepper(model, slots=2), stepper(model, slots=2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    expected = alone.run(6, [0, 1]).tokens
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    late.clear()
    found = []
    for _ in range(3):
        found.append(helped.run(2, [0, 1]).tokens)
        for come in late[:-1]:
            come()
    assert len(late) == 6
    assert np.array_equal(np.concatenate(found), expected)
    assert torch.equal(helped.cache.k, alone.cache.k)
