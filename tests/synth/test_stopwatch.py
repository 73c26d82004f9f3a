"""Times and memory of one contender; that of a process of its own is in test_bench.py."""

import pytest
import torch

from synth import stopwatch
from synth.contenders import Case, Mark
from synth.protocol import Stage


class Hungry:
    """Makes one clip of however many, and takes 200 MB meanwhile."""

    def make(self, case: Case, mark: Mark) -> int:
        mark(Stage.SEMANTIC)
        assert float(torch.ones(50_000_000).sum()) == 5e7
        mark(Stage.COARSE)
        mark(Stage.CODEC)
        return 1


def test_stages_are_timed_and_what_was_not_made_again_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wall, cpu = iter([10.0, 11.0, 14.0, 14.5]), iter([1.0, 1.5, 4.0, 4.0])
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: next(wall))
    monkeypatch.setattr(stopwatch.time, "process_time", lambda: next(cpu))
    sample = stopwatch.measure(Hungry(), Case(5, jobs=4))
    assert list(sample.wall.values()) == [4.0, 12.0, 0.0, 2.0]
    assert list(sample.cpu.values()) == [2.0, 10.0, 0.0, 0.0]
    assert sample.wall_s == 18 and sample.cpu_s == 12


def test_the_peak_is_that_of_the_case() -> None:
    """Memory given back while it worked counts; where the system lets a peak be forgotten, what
    was given back before does not.
    """
    before = stopwatch.peak_bytes()
    assert stopwatch.measure(Hungry(), Case(5)).peak_bytes >= 200e6
    assert stopwatch.peak_bytes() > 0 and before > 0
