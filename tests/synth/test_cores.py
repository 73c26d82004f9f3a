"""How many threads compute."""

import os
import sys

import pytest
import torch

from synth.cores import settle_threads, usable_cores


def test_at_least_one_core_is_used_and_no_more_than_there_are() -> None:
    linux = sys.platform == "linux"
    assert 1 <= usable_cores() <= (len(os.sched_getaffinity(0)) if linux else os.cpu_count() or 1)


def test_what_is_asked_for_counts_then_the_environment_then_the_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settled: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", settled.append)
    monkeypatch.setattr("synth.cores.usable_cores", lambda: 7)
    for environment, asked in (("3", None), ("3", 2), (None, None), (None, 2)):
        if environment:
            monkeypatch.setenv("OMP_NUM_THREADS", environment)
        else:
            monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        settle_threads(asked)
    assert settled == [2, 7, 2]
