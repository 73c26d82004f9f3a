"""Which precision a machine gets, and that a batch in it is its rows."""

from typing import Any

import numpy as np
import pytest
import torch

from synth import bound, precision
from synth.bound import BOUND, Fidelity
from synth.checkpoints import open_checkpoint
from synth.errors import InvalidRequest
from synth.linear import (
    Int8Linear,
    Linear,
    PackedHalfLinear,
    PackedInt8Linear,
    PackedWideLinear,
    cpu_kernels,
    has_half_kernels,
    int8_limit,
)
from synth.model import build_model, largest_transformer
from synth.pipeline import Pipeline
from synth.precision import SMALL_WEIGHTS, pick_precision
from synth.protocol import BUILT_IN_MODEL, Audio, Sampling, Stage, Submit
from synth.slot_draws import Draw
from synth.stepper import Stepper
from synth.vocab import BARK, BARK_SMALL
from tests.synth.tiny import NARROW, RANDOM, tiny_checkpoint, tiny_model

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))
SMALL = largest_transformer(BARK_SMALL)
needs_int8 = pytest.mark.skipif(not int8_limit(), reason="no 8 bit products on this machine")
needs_kernels = pytest.mark.skipif(cpu_kernels() is None, reason="no kernels for this processor")

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
    ("within", "name"),
    [
        ({"int8", "int8-wide", "bf16"}, "int8"),
        ({"int8-wide", "bf16"}, "semantic int8, coarse int8-wide, fine int8"),
        ({"bf16"}, "semantic int8, coarse bf16, fine int8"),
        (set[str](), "semantic int8, coarse fp32, fine int8"),
    ],
)
def test_auto_takes_the_fastest_within_the_bound_of_each_stage(
    monkeypatch: pytest.MonkeyPatch, within: set[str], name: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(precision, "has_narrow_rows", lambda: True)
    good, bad = BOUND, Fidelity(BOUND.divergence * 1.01, 1.0)
    recorded = {
        precision: dict.fromkeys(Stage, good) | ({} if precision in within else {Stage.COARSE: bad})
        for precision in ("int8", "int8-wide", "bf16")
    }
    monkeypatch.setattr(bound, "recorded", lambda _: recorded)
    picked, eighth = pick_precision("auto", CPU), pick_precision("int8", CPU)
    assert picked.name == name
    assert (picked.semantic, picked.fine) == (eighth.semantic, eighth.fine)
    if "int8-wide" in within and "int8" not in within:
        assert picked.coarse.linear is PackedWideLinear
    else:
        other = "int8" if "int8" in within else "bf16" if within else "fp32"
        assert picked.coarse == pick_precision(other, CPU).coarse


def test_what_was_measured_of_a_size_counts_for_that_size(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """8 bits are within the bound for Bark small, and in some stages past it for the large size."""
    caplog.set_level("INFO")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(precision, "decoding_linear", lambda: PackedInt8Linear)
    monkeypatch.setattr(precision, "has_narrow_rows", lambda: True)
    small, large = (largest_transformer(config) for config in (BARK_SMALL, BARK))
    assert pick_precision("auto", CPU, weights=small).name == "int8"
    assert not caplog.text
    mixed = "semantic int8, coarse int8-wide, fine bf16"
    assert pick_precision("auto", CPU, weights=large).name == mixed
    assert pick_precision("auto", CPU).name == mixed
    assert "fine in bf16" in caplog.text


@needs_kernels
def test_rows_that_are_wide_in_any_case_have_no_name_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without VNNI: what was measured of wide rows counts, and int8 is that."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    monkeypatch.setattr(precision, "has_narrow_rows", lambda: False)
    figures = {"int8": Fidelity(1, 0), "int8-wide": BOUND, "bf16": BOUND}
    recorded = {name: dict.fromkeys(Stage, figure) for name, figure in figures.items()}
    monkeypatch.setattr(bound, "recorded", lambda _: recorded)
    assert pick_precision("auto", CPU).name == "int8"


@needs_kernels
@pytest.mark.parametrize("fine", [Linear, PackedHalfLinear])
def test_auto_of_the_large_size_on_amx(monkeypatch: pytest.MonkeyPatch, fine: type[Linear]) -> None:
    """There torch's products of bfloat16 are the fastest."""
    amx = fine is Linear
    found = {"avx512_bf16": True, "amx_bf16": amx}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    monkeypatch.setattr(precision, "has_half_kernels", lambda: True)
    picked = pick_precision("auto", CPU, weights=largest_transformer(BARK))
    assert picked.fine.linear is fine
    assert picked.coarse.linear is PackedWideLinear


@needs_kernels
def test_a_model_of_several_precisions_makes_the_same_clip_beside_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bad = {Stage.FINE: Fidelity(1, 0)}
    recorded = {
        "int8": dict.fromkeys(Stage, BOUND) | bad,
        "int8-wide": dict.fromkeys(Stage, BOUND) | bad,
        "bf16": dict.fromkeys(Stage, BOUND),
    }
    monkeypatch.setattr(bound, "recorded", lambda _: recorded)
    monkeypatch.setattr(precision, "SMALL_WEIGHTS", 0)
    model = build_model(tiny_checkpoint(RANDOM), device="cpu", precision="auto")
    assert model.precision.name.startswith("semantic int8, coarse int8, fine ")
    assert model.fine.precision.linear is not model.coarse.precision.linear
    wanted = [
        Submit(
            job_id=str(seed),
            text="Hello there",
            sampling=Sampling(seed=seed, max_seconds=1.0, early_stop=False),
        )
        for seed in range(3)
    ]
    alone = {submit.job_id: Pipeline(model).run(submit, None)[0] for submit in wanted}
    pipeline = Pipeline(model, slots=3)
    for submit in wanted:
        pipeline.admit(submit, None)
    sounds: dict[str, list[Any]] = {submit.job_id: [] for submit in wanted}
    while pipeline.free < 3:
        for event in pipeline.step():
            if isinstance(event, Audio):
                sounds[event.job_id].append(event.samples)
    for job, pieces in sounds.items():
        np.testing.assert_array_equal(np.concatenate(pieces), alone[job])


@pytest.mark.skipif(not has_half_kernels(), reason="no products of bfloat16 here")
@pytest.mark.parametrize(
    ("capabilities", "fine"), [({}, PackedHalfLinear), ({"amx_bf16": True}, Linear)]
)
def test_bf16_is_compiled_where_torch_is_not_faster(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, Any], fine: type[Linear]
) -> None:
    found = {**torch.cpu.get_capabilities(), "amx_bf16": False, **capabilities}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    picked = pick_precision("bf16", CPU)
    assert picked.semantic.linear is picked.coarse.linear is PackedHalfLinear
    assert picked.fine.linear is fine
    monkeypatch.setattr(precision, "has_half_kernels", lambda: False)
    plain = pick_precision("bf16", CPU)
    assert plain.semantic.linear is plain.fine.linear is Linear
    assert plain.semantic.dtype == torch.bfloat16


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
        assert stage.attn_proj is None
    if picked.fine.linear is PackedInt8Linear:
        assert picked.fine.attn_proj in (PackedHalfLinear, PackedWideLinear)
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
