"""The bench of a GPU, its lines made on the processor that tests have."""

import pytest
import torch

from synth import bench, gpu_bench
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
            jobs=2,
            peer_seconds=0.2,
        )
    )
    assert "TB/s" in lines[0] and "random, fp32, built in" in lines[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    steps = [row for row in rows if row[0] in ("1", "2")]
    assert [float(row[1]) > 0 and float(row[2]) > 0 for row in steps] == [True, True]
    clips = [row for row in rows if len(row) == 9 and row[1][0].isdigit()]
    assert [(row[0].split(" (")[0], row[1]) for row in clips] == [
        ("this engine", "0.4"),
        ("this engine", "0.2"),
        ("this engine, 2 at once", "0.8"),
        ("transformers-fp32", "0.2"),
    ]
    for row in clips:  # stages add up, and speed is sound over time
        assert float(row[6]) == pytest.approx(sum(map(float, row[2:6])), abs=0.03)
    assert "x this engine's time" in clips[-1][0]


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
