"""A precision measured against single precision, and what the bound makes of it."""

from dataclasses import replace

import pytest
import torch

from synth import bound, fidelity
from synth.bound import BOUND, Fidelity
from synth.linear import int8_limit
from synth.protocol import Stage
from synth.vocab import ModelConfig
from tests.synth.tiny import ODD, RANDOM, history, tiny_model

TEXT = "Hello there"


@pytest.mark.parametrize("config", [RANDOM, ODD])
@pytest.mark.parametrize("voiced", [False, True])
def test_double_precision_differs_by_nothing(config: ModelConfig, voiced: bool) -> None:
    """Through several windows of coarse and fine: a misplaced position would show at once."""
    voice = history(config, 60) if voiced else None
    found = fidelity.measure(
        tiny_model(config), tiny_model(config, "fp64"), TEXT, voice, seconds=3.0
    )
    assert list(found) == [Stage.SEMANTIC, Stage.COARSE, Stage.FINE]
    for stage in found.values():
        assert abs(stage.divergence) < 1e-6 and stage.agreement > 0.999


def test_another_model_is_out_and_bfloat16_is_between() -> None:
    exact = tiny_model()
    other = fidelity.measure(exact, tiny_model(RANDOM, "fp32", 1), TEXT, seconds=1.0)
    near = fidelity.measure(exact, tiny_model(RANDOM, "bf16"), TEXT, seconds=1.0)
    for stage, figure in near.items():
        assert 0 < figure.divergence < 0.05 < 1 < other[stage].divergence
        assert other[stage].agreement < 0.2 < 0.85 < figure.agreement
    lines = fidelity.table({"bf16": near, "other": other}).splitlines()
    assert lines[2].startswith("| bf16 | semantic | 0.0")
    assert len(lines) == 2 + 6 + 1 and "other" not in lines[-1]


@pytest.mark.skipif(not int8_limit(), reason="no 8 bit products on this machine")
def test_int8_is_farther_than_bfloat16_where_a_row_is_decoded() -> None:
    found = {
        name: fidelity.measure(tiny_model(), tiny_model(RANDOM, name), TEXT, seconds=1.0)
        for name in ("bf16", "int8")
    }
    for stage in (Stage.SEMANTIC, Stage.COARSE):
        assert found["int8"][stage].divergence > found["bf16"][stage].divergence


def test_the_figures_are_those_of_the_distributions() -> None:
    """By hand: two positions, one of which has another likeliest token."""
    tally = fidelity._Tally(0.5)
    exact = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    other = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    tally.add(exact, other)
    p = (exact[0] * 2).softmax(0)
    by_hand = (p * (p / (other[0] * 2).softmax(0)).log()).sum() / 2
    assert tally.fidelity.divergence == pytest.approx(float(by_hand))
    assert tally.fidelity.agreement == 0.5


def test_the_bound_needs_every_stage() -> None:
    within = dict.fromkeys(Stage, BOUND)
    assert bound.admits(within)
    for out in (
        replace(BOUND, divergence=BOUND.divergence * 1.01),
        replace(BOUND, agreement=BOUND.agreement * 0.99),
        Fidelity(float("nan"), 1.0),
    ):
        assert not bound.admits(within | {Stage.FINE: out})
