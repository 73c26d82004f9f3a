"""Times and memory of one contender; that of a process of its own is in test_bench.py."""

import signal
import sys

import pytest
import torch

from synth import stopwatch
from synth.contenders import Case, Mark
from synth.protocol import RANDOM_MODEL, Stage


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


class Sated(Hungry):
    """The same without the memory."""

    def make(self, case: Case, mark: Mark) -> int:
        mark(Stage.SEMANTIC)
        return 1


def test_the_peak_is_that_of_the_case() -> None:
    """Memory given back while it worked counts; what was given back before does not."""
    hungry = stopwatch.measure(Hungry(), Case(5)).peak_bytes
    assert hungry >= 200e6
    if sys.platform != "linux":
        pytest.skip("only Linux lets a peak be forgotten")
    assert stopwatch.measure(Sated(), Case(5)).peak_bytes < hungry - 100e6


def test_a_child_that_is_at_work_is_ended_and_not_waited_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stopwatch, "_GRACE_S", 0.1)
    child = stopwatch.Child("ours-fp32", RANDOM_MODEL, threads=1, device="cpu")
    child._end.send(Case(400, jobs=2000))  # more than anybody would wait for
    child.close()
    assert child._process.exitcode == -signal.SIGTERM
