from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from synth.nano.ahead import Batch
from synth.nano.recipe import Run
from synth.nano.trainer import Limits, rate, train

RUN = Run(batch=4, learning_rate=0.05, warmup=5, save_every=5)


class Line:
    """A stage that learns y = 3 x from noisy samples."""

    name = "line"
    model: nn.Module

    def __init__(self, fail_at: int | None = None) -> None:
        torch.manual_seed(1)
        self.model = nn.Linear(1, 1)
        self.fail_at = fail_at
        self.refreshed = 0
        self.loaded: dict[str, Any] = {}

    def prepare(self, step: int, rng: np.random.Generator) -> Batch:
        return (rng.standard_normal((8, 1), np.float32),)

    def loss(self, step: int, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        if step == self.fail_at:
            raise KeyboardInterrupt
        x = torch.from_numpy(batch[0])
        loss = (self.model(x) - 3 * x).square().mean()
        return loss, {"loss": loss.detach()}

    def validate(self) -> dict[str, float]:
        return {"weight": self.model.state_dict()["weight"].item()}

    def refresh(self) -> bool:
        self.refreshed += 1
        return self.refreshed % 2 == 0

    def extra_state(self) -> dict[str, Any]:
        return {"note": 7}

    def load_extra(self, state: dict[str, Any]) -> None:
        self.loaded = state


def test_learns_and_keeps_a_curve(tmp_path: Path):
    state = train(Line(), RUN, tmp_path / "line.pt", Limits(steps=200))
    assert state.model.state_dict()["weight"].item() == pytest.approx(3, abs=0.05)
    assert state.average["weight"].item() == pytest.approx(3, abs=0.3)
    assert [point["step"] for point in state.curve] == list(range(10, 201, 10))


def test_a_resumed_run_equals_an_unbroken_one(tmp_path: Path):
    """Killed at step 13, it goes on from step 10 and sees the same batches."""
    whole = train(Line(), RUN, tmp_path / "whole.pt", Limits(steps=20))
    broken = Line(fail_at=13)
    with pytest.raises(KeyboardInterrupt):
        train(broken, RUN, tmp_path / "broken.pt", Limits(steps=20))
    again = Line()
    resumed = train(again, RUN, tmp_path / "broken.pt", Limits(steps=20))
    assert again.loaded == {"note": 7}
    assert resumed.step == whole.step == 20
    for key, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[key], value, rtol=0, atol=0)
        torch.testing.assert_close(resumed.average[key], whole.average[key], rtol=0, atol=0)


class Forgetful(Line):
    """A line that drops out."""

    def loss(self, step: int, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, parts = super().loss(step, batch)
        return torch.nn.functional.dropout(loss.repeat(4), 0.5).mean(), parts


def test_a_resumed_run_drops_out_what_an_unbroken_one_would(tmp_path: Path):
    """Dropout's generator was not in the checkpoint; only what is drawn ahead was seeded."""
    whole = train(Forgetful(), RUN, tmp_path / "whole.pt", Limits(steps=20))
    train(Forgetful(), RUN, tmp_path / "broken.pt", Limits(steps=10))
    resumed = train(Forgetful(), RUN, tmp_path / "broken.pt", Limits(steps=20))
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)


def test_measuring_does_not_change_the_training(tmp_path: Path):
    often = Run(batch=4, learning_rate=0.05, warmup=5, save_every=1)
    one = train(Line(), RUN, tmp_path / "a.pt", Limits(steps=9))
    two = train(Line(), often, tmp_path / "b.pt", Limits(steps=9))
    torch.testing.assert_close(one.model.state_dict(), two.model.state_dict(), rtol=0, atol=0)


def test_batches_made_ahead_are_the_same(tmp_path: Path):
    alone = train(Line(), RUN, tmp_path / "a.pt", Limits(steps=23))
    helped = train(Line(), RUN, tmp_path / "b.pt", Limits(steps=23), workers=2)
    torch.testing.assert_close(alone.model.state_dict(), helped.model.state_dict(), rtol=0, atol=0)


def test_rate_warms_up_holds_and_cools_down():
    limits = Limits(steps=100, cooldown=20)
    assert rate(RUN, 0, limits) == pytest.approx(0.01)
    assert rate(RUN, 50, limits) == pytest.approx(0.05)
    assert rate(RUN, 90, limits) == pytest.approx(0.025)
    assert rate(RUN, 100, limits) == 0
    timed = Limits(minutes=10, cooldown_minutes=4)
    assert rate(RUN, 500, timed, minutes=5) == pytest.approx(RUN.learning_rate)
    assert rate(RUN, 500, timed, minutes=9) == pytest.approx(RUN.learning_rate / 4)


def test_no_time_left_still_leaves_a_checkpoint(tmp_path: Path):
    state = train(Line(), RUN, tmp_path / "line.pt", Limits(minutes=0))
    assert state.step == 0
    assert (tmp_path / "line.pt").exists()
    assert not list(tmp_path.glob("part-*"))
