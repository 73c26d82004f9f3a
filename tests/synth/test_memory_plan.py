"""What fits onto which card."""

import pytest

from synth.memory_plan import plan_memory
from synth.vocab import BARK, BARK_SMALL, ModelConfig


@pytest.mark.parametrize(
    ("config", "free_gb", "slots"),
    [
        (BARK, 3.6, 3),  # a card of 4 GB, a screen on it
        (BARK, 7.4, 16),
        (BARK, 11.4, 16),
        (BARK_SMALL, 3.6, 16),
        (BARK_SMALL, 1.7, 1),
    ],
)
def test_cards_of_4_8_and_12_gb(config: ModelConfig, free_gb: float, slots: int) -> None:
    plan = plan_memory(config, free_gb * 1e9, 2)
    assert plan.slots == slots
    if slots:
        used = plan.weight_bytes + plan.slots * plan.slot_bytes
        assert used + 0.5e9 < plan.free_bytes


@pytest.mark.parametrize(
    ("config", "free_gb", "slots"),
    [(BARK, 2.8, 1), (BARK, 2.0, 1), (BARK, 1.8, 0), (BARK_SMALL, 1.4, 1), (BARK_SMALL, 1.2, 0)],
)
def test_less_holds_one_stage_at_a_time(config: ModelConfig, free_gb: float, slots: int) -> None:
    plan = plan_memory(config, free_gb * 1e9, 2)
    assert plan.offload and plan.slots == slots
    assert plan.weight_bytes < 0.6 * plan_memory(config, 8e9, 2).weight_bytes


def test_weights_are_those_that_the_published_models_have() -> None:
    """2.17 GB and 0.78 GB in half precision, codec included."""
    assert plan_memory(BARK, 8e9, 2).weight_bytes == pytest.approx(2.17e9, rel=0.1)
    assert plan_memory(BARK_SMALL, 8e9, 2).weight_bytes == pytest.approx(0.78e9, rel=0.15)


def test_it_says_what_it_does() -> None:
    assert "of 7.4 GB free" in str(plan_memory(BARK, 7.4e9, 2))
    assert "(offload)" in str(plan_memory(BARK, 2.8e9, 2))
    assert str(plan_memory(BARK, 1e9, 2)).startswith("1.0 GB are free and 1.9")
