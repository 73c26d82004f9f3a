"""The bench of a GPU, its lines made on the processor that tests have."""

import pytest
import torch

from synth import bench, gpu_bench, gpu_gates
from tests.synth.tiny import RANDOM, tiny_checkpoint


def test_every_figure_is_told_in_its_line() -> None:
    lines = list(
        gpu_bench.lines(
            tiny_checkpoint(RANDOM),
            None,
            0.4,
            ["transformers-fp32"],
            device="cpu",
            repeats=1,
            batches=(1, 2),
            jobs=9,
            peer_seconds=0.2,
        )
    )
    assert "TB/s" in lines[0] and "random, fp32, built in" in lines[0]
    table = "\n".join(lines).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table if "|" in line]
    assert lines[1].startswith("ready for 9 clips at once after ")
    steps = [row for row in rows if row[0] in ("1", "2") and len(row) == 5]
    assert [float(row[1]) > 0 and float(row[2]) > 0 for row in steps] == [True, True]
    clips = [row for row in rows if len(row) == 9 and row[1][0].isdigit()]
    assert [(row[0].split(" (")[0], row[1]) for row in clips] == [
        ("this engine", "0.4"),
        ("this engine", "0.2"),
        ("this engine, 8 at once", "3.2"),
        ("this engine, 9 at once", "3.6"),
        ("transformers-fp32", "0.2"),
    ]
    for row in clips:  # stages add up, and speed is sound over time
        assert float(row[6]) == pytest.approx(sum(map(float, row[2:6])), abs=0.03)
    assert "x this engine's time" in clips[-1][0]
    heard = {row[0]: float(row[1]) for row in rows if row[0] in ("`exact`", "`low_latency`")}
    assert len(heard) == 2
    takes = [row for row in rows if row[0] in ("1", "4") and len(row) == 3]
    assert [row[0] for row in takes] == ["1", "4"] and float(takes[1][1]) > 0
    gates = [line for line in lines if line.startswith("gate ")]
    assert [line.split(": ")[1] for line in gates] == [
        "a decode step of 1",
        "many clips at once",
        "its first sound, low latency",
        "the best of four takes",
        "as fast as transformers",
    ]


def test_a_gate_is_met_on_its_bound_and_on_its_side_of_it() -> None:
    assert gpu_gates.CLIP.line(2.5) == "gate met: a clip of 10 s alone: 2.50 s, at most 2.5"
    assert gpu_gates.CLIP.line(2.53).startswith("gate MISSED: ")
    assert gpu_gates.TOGETHER.line(25.0).startswith("gate met: ")
    assert gpu_gates.TOGETHER.line(10.9).endswith("10.90 s of audio a second, at least 25")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--device", "cuda"]) == 78
    assert "There is no CUDA device" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_what_a_gpus_bench_does_not_write_is_refused_before_it_measures(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(["--device", "cuda", option, "somewhere"]) == 78
    assert "leave them out for a GPU" in capsys.readouterr().out
