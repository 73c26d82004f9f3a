"""The benchmark's contenders do the same work, and its table says what was measured."""

from collections.abc import Callable

import pytest
import torch

from synth import bench, contenders
from synth.bench import Times, measure, random_history, table
from synth.contenders import Contender
from synth.protocol import RANDOM_MODEL, HistoryPrompt, Stage
from tests.synth.tiny import NARROW, tiny_checkpoint

TOKENS = 12
CHECKPOINT = tiny_checkpoint(NARROW)


def ours(history: HistoryPrompt | None) -> Contender:
    return contenders.ours(CHECKPOINT, TOKENS, history, precision="fp32", device="cpu")


def suno(history: HistoryPrompt | None) -> Contender:
    return contenders.suno(CHECKPOINT, TOKENS, history)


def transformers(history: HistoryPrompt | None) -> Contender:
    return contenders.transformers(CHECKPOINT, TOKENS, history, dtype=torch.bfloat16)


@pytest.mark.parametrize("build", [ours, suno, transformers])
@pytest.mark.parametrize("voiced", [False, True])
def test_every_contender_makes_a_clip_stage_by_stage(
    build: Callable[[HistoryPrompt | None], Contender], voiced: bool
) -> None:
    times = Times()
    measure(build(random_history(NARROW) if voiced else None), times)
    for stage in Stage:
        assert len(times.wall[stage]) == 1 and times.wall[stage][0] > 0
        assert times.cpu[stage][0] >= 0


def test_the_table_shows_medians() -> None:
    times = Times()
    for stage in Stage:
        times.cpu[stage] = [1.0, 9.0, 2.0]
        times.wall[stage] = [3.0, 3.5, 30.0]
    lines = table({"ours": times}, audio_s=4.0).splitlines()
    assert lines[2] == "| ours | 2.00 | 2.00 | 2.00 | 2.00 | 8.0 | 14.0 | 2.00 |"


def test_the_command_measures_this_engine(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        status = bench.main(
            ["--model", "random", "--seconds", "0.5", "--repeats", "1", "--only", "ours-fp32"]
        )
    finally:
        torch.set_num_threads(threads)
    out = capsys.readouterr().out
    assert status == 0 and "0.49 s of audio" in out and "| ours-fp32 |" in out


def test_a_model_that_is_not_there_is_a_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--model", "/no/such/folder"]) == 78
    assert "/no/such/folder" in capsys.readouterr().out


def test_streaming_and_quality_are_told_in_place_of_stages(
    capsys: pytest.CaptureFixture[str],
) -> None:
    threads = torch.get_num_threads()
    try:
        given = ["--quality", "--streaming", "--model", RANDOM_MODEL, "--voice", "--repeats", "1"]
        assert bench.main(given) == 0
    finally:
        torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("| `low_latency` |")]
    kinds = ("greedy", "same noise", "exact, other noise")
    means = {kind: line for kind in kinds for line in lines if f"| all |  | {kind} |" in line}
    assert set(means) == set(kinds)
    shares = [float(cell.strip(" %")) for cell in means["same noise"].split("|")[4:6]]
    assert all(0 < share < 100 for share in shares)
