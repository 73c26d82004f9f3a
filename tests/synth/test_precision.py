"""Which precision a machine gets, and that a batch in it is its rows."""

from typing import Any

import pytest
import torch

from synth import bound, precision
from synth.bound import BOUND, Fidelity
from synth.checkpoints import open_checkpoint
from synth.errors import InvalidRequest
from synth.linear import (
    Int8Linear,
    Linear,
    PackedInt8Linear,
    PackedWideLinear,
    int8_kernels,
    int8_limit,
)
from synth.model import build_model, largest_transformer
from synth.precision import SMALL_WEIGHTS, pick_precision
from synth.protocol import BUILT_IN_MODEL, Stage
from synth.slot_draws import Draw
from synth.stepper import Stepper
from synth.vocab import BARK, BARK_SMALL
from tests.synth.tiny import NARROW, tiny_checkpoint, tiny_model

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))
SMALL = largest_transformer(BARK_SMALL)
needs_int8 = pytest.mark.skipif(not int8_limit(), reason="no 8 bit products on this machine")
needs_kernels = pytest.mark.skipif(int8_kernels() is None, reason="no kernels for this processor")

AMX = {"amx_bf16": True, "avx512_bf16": True}


@pytest.mark.parametrize(
    ("compiled", "capabilities", "name"),
    [
        (True, AMX, "int8"),
        (True, {}, "int8"),
        (False, AMX, "bf16"),
        (False, {"avx512_bf16": True}, "bf16"),
        (False, {}, "fp32"),
    ],
)
def test_auto_on_a_cpu_is_what_it_is_fast_at_within_the_bound(
    monkeypatch: pytest.MonkeyPatch, compiled: bool, capabilities: dict[str, Any], name: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    made_by = PackedInt8Linear if compiled else Int8Linear
    monkeypatch.setattr(precision, "decoding_linear", lambda: made_by)
    assert pick_precision("auto", CPU, weights=SMALL).name == name


@needs_kernels
@pytest.mark.parametrize(
    ("within", "name"), [({"int8", "bf16"}, "int8"), ({"bf16"}, "bf16"), (set[str](), "fp32")]
)
def test_auto_takes_the_fastest_whose_every_stage_is_within_the_bound(
    monkeypatch: pytest.MonkeyPatch, within: set[str], name: str
) -> None:
    """One stage that is out puts the precision out."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: AMX)
    good, bad = BOUND, Fidelity(BOUND.divergence * 1.01, 1.0)
    recorded = {
        precision: dict.fromkeys(Stage, good) | ({} if precision in within else {Stage.COARSE: bad})
        for precision in ("int8", "bf16")
    }
    monkeypatch.setattr(bound, "recorded", lambda _: recorded)
    assert pick_precision("auto", CPU).name == name


def test_what_was_measured_of_a_size_counts_for_that_size(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """8 bits are within the bound for Bark small, and past it for the large size."""
    caplog.set_level("INFO")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: AMX)
    monkeypatch.setattr(precision, "decoding_linear", lambda: PackedInt8Linear)
    sizes = [largest_transformer(config) for config in (BARK_SMALL, BARK)]
    assert [pick_precision("auto", CPU, weights=weights).name for weights in sizes] == [
        "int8",
        "bf16",
    ]
    assert pick_precision("auto", CPU).name == "bf16"
    assert "8 bits would be" in caplog.text


def test_auto_leaves_a_small_model_and_an_untried_device_in_single_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: AMX)
    monkeypatch.setattr(precision, "decoding_linear", lambda: PackedInt8Linear)
    assert pick_precision("auto", CPU, weights=SMALL_WEIGHTS).name == "int8"
    assert pick_precision("auto", CPU, weights=SMALL_WEIGHTS - 1).name == "fp32"
    assert pick_precision("auto", MPS).name == "fp32"
    assert build_model(tiny_checkpoint(), device="cpu").precision.name == "fp32"


def test_bark_is_not_small_and_the_built_in_model_is() -> None:
    built_in = open_checkpoint(BUILT_IN_MODEL).config
    assert largest_transformer(built_in) < SMALL_WEIGHTS < largest_transformer(BARK_SMALL)


@pytest.mark.parametrize(("capability", "name"), [((7, 5), "fp16"), ((8, 0), "bf16")])
def test_auto_follows_the_compute_capability(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], name: str
) -> None:
    """torch itself says that a T4 does bf16; it emulates it."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert pick_precision("auto", CUDA).name == name


@pytest.mark.parametrize(
    ("name", "device"), [("int8", CUDA), ("int8", MPS), ("bf16", MPS), ("fp16", CPU), ("fp12", CPU)]
)
def test_what_a_device_has_not_got_is_named(name: str, device: torch.device) -> None:
    with pytest.raises(InvalidRequest, match=name):
        pick_precision(name, device)


def test_int8_without_8_bit_products_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "int8_limit", lambda: 0)
    monkeypatch.setattr(precision, "decoding_linear", lambda: Int8Linear)
    with pytest.raises(InvalidRequest, match="fp32"):
        pick_precision("int8", CPU)


AMX = {"amx_bf16": True, "avx512_bf16": True}


@needs_int8
@pytest.mark.parametrize(
    ("capabilities", "made_by", "fine", "cache"),
    [
        (AMX, PackedInt8Linear, torch.bfloat16, torch.bfloat16),
        (AMX, Int8Linear, torch.bfloat16, torch.bfloat16),
        ({"avx512_bf16": True}, PackedInt8Linear, torch.float32, torch.bfloat16),
        ({"avx512_bf16": True}, Int8Linear, torch.bfloat16, torch.float32),
        ({}, Int8Linear, torch.float32, torch.float32),
    ],
)
def test_what_int8_adds_follows_the_processor(
    monkeypatch: pytest.MonkeyPatch,
    capabilities: dict[str, Any],
    made_by: type[Linear],
    fine: torch.dtype,
    cache: torch.dtype,
) -> None:
    """The fine stage is in 8 bits unless bfloat16 is the faster there."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(precision, "decoding_linear", lambda: made_by)
    picked = pick_precision("int8", CPU)
    wide = PackedWideLinear if made_by is PackedInt8Linear else made_by
    for stage, linear in ((picked.semantic, wide), (picked.coarse, made_by)):
        assert stage.linear is linear and stage.dtype == torch.float32
        assert stage.cache_dtype == cache
    assert picked.fine.dtype == fine
    assert picked.fine.linear is (Linear if fine == torch.bfloat16 else made_by)


@needs_int8
def test_slots_in_int8_are_their_solo_runs_bitwise() -> None:
    """Tokens, and the keys and values that every later step depends on."""
    transformer = tiny_model(NARROW, "int8").semantic
    heads = [transformer.heads[0]]
    draws = [Draw(key=slot, temperature=0.8) for slot in range(3)]
    prompts = [torch.arange(1, 9 + 5 * slot).numpy() for slot in range(3)]

    def start(stepper: Stepper, slot: int, which: int) -> None:
        stepper.open(slot, draws[which])
        stepper.prefill(slot, stepper.embed(prompts[which]), 7 + which)

    together = Stepper(transformer, heads, [0], slots=3)
    for which in range(3):
        start(together, which, which)
    tokens = together.run(20, [0, 1, 2]).tokens
    for which in range(3):
        alone = Stepper(transformer, heads, [0], slots=1)
        start(alone, 0, which)
        assert (alone.run(20, [0]).tokens[:, 0] == tokens[:, which]).all()
        live = alone.live[0]
        for mine, theirs in ((alone.cache.k, together.cache.k), (alone.cache.v, together.cache.v)):
            assert torch.equal(mine[:, 0, :, :live], theirs[:, which, :, :live])
