"""What a terminal shows."""

import os

import pytest

from synth.protocol import Progress, Stage
from synth.stage_bars import StageBars


def test_bars_follow_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal that does not know its size, as this one, there was nothing but empty lines."""
    keyboard, screen = os.openpty()
    with os.fdopen(keyboard, "rb", buffering=0) as seen, os.fdopen(screen, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        with StageBars() as bars:
            for stage in Stage:
                bars(Progress("say", stage, 0.5))
                bars(Progress("say", stage, 1.0))
        terminal.flush()
        os.set_blocking(keyboard, False)
        shown = b"".join(iter(lambda: seen.read(4096), None)).decode()
    for stage in Stage:
        assert f"{stage.value:8} 100%" in shown
