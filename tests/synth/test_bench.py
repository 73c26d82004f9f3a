"""The benchmark's command, from its options to its tables, its JSON and its picture."""

import json
from pathlib import Path

import pytest
import torch

from synth import bench
from synth.bench import case_for
from synth.protocol import RANDOM_MODEL, Stage
from synth.vocab import BARK_SMALL
from tests.synth.tiny import RANDOM


@pytest.mark.parametrize(
    ("seconds", "jobs", "tokens", "clips"), [(5, 1, 250, 1), (15, 8, 748, 8), (60, 2, 748, 8)]
)
def test_a_clip_longer_than_an_utterance_is_several(
    seconds: float, jobs: int, tokens: int, clips: int
) -> None:
    case = case_for(seconds, BARK_SMALL, jobs)
    assert (case.tokens, case.jobs) == (tokens, clips)
    assert case.audio_s(BARK_SMALL) == pytest.approx(seconds * jobs, rel=0.01)


def test_the_command_measures_this_engine_in_a_process_of_its_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    given = "--seconds 0.5 --repeats 2 --threads 1 --jobs 2 --only ours-fp32 --lengths 0.5 1"
    try:
        status = bench.main(
            ["--model", RANDOM_MODEL, *given.split(), "--batches", "1", "2"]
            + ["--json", str(tmp_path / "all.json"), "--plot", str(tmp_path / "all.png")]
        )
    finally:
        torch.set_num_threads(threads)
    out = capsys.readouterr().out
    assert status == 0 and "0.49 s of audio, 2 at once" in out and "GB/s" in out
    assert [line for line in out.splitlines() if line.startswith("| ours-fp32 |")]
    values = json.loads((tmp_path / "all.json").read_text())
    assert {(r["jobs"], round(r["audio_s"], 2)) for r in values["results"]} == {
        (jobs, round(case_for(seconds, RANDOM, jobs).audio_s(RANDOM), 2))
        for seconds, jobs in ((0.5, 2), (0.5, 1), (1, 1))
    }
    for result in values["results"]:
        assert len(result["samples"]) == 2
        for sample in result["samples"]:
            assert set(sample["cpu"]) == set(Stage) and min(sample["cpu"].values()) >= 0
            assert sample["peak_bytes"] > 50e6
    assert (tmp_path / "all.png").read_bytes()[1:4] == b"PNG"


def test_what_cannot_be_had_is_named_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """The process that tried ends, and the others go on."""
    given = ["--model", RANDOM_MODEL, "--only", "ours-int8", "--device", "meta", "--threads", "1"]
    threads = torch.get_num_threads()
    try:
        assert bench.main(given) == 0
    finally:
        torch.set_num_threads(threads)
    assert "ours-int8 is left out: There is no device 'meta'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("--json gone/all.json", "The folder gone does not exist"),
        ("--plot gone/all.png", "The folder gone does not exist"),
        ("--plot all.txt", "end its name in .png"),
    ],
)
def test_what_could_not_be_written_is_said_before_anything_is_measured(
    given: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    try:
        assert bench.main(["--model", RANDOM_MODEL, *given.split()]) == 78
    finally:
        torch.set_num_threads(threads)
    out = capsys.readouterr().out
    assert says in out and "CPU s" not in out


@pytest.mark.parametrize("option", ["--repeats", "--seconds", "--jobs", "--threads"])
def test_nothing_is_no_amount(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.parser().parse_args([option, "0"])
    assert "0 is not more than 0" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_a_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--model", "/no/such/folder"]) == 78
    assert "/no/such/folder" in capsys.readouterr().out


def test_streaming_and_quality_are_told_in_place_of_stages(
    capsys: pytest.CaptureFixture[str],
) -> None:
    threads = torch.get_num_threads()
    try:
        given = [
            "--quality",
            "--seconds",
            "1",
            "--streaming",
            "--model",
            RANDOM_MODEL,
            "--voice",
            "full",
            "--repeats",
            "1",
        ]
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
    assert [line for line in lines if line.startswith("| bf16 | coarse | ")]
    assert [line for line in lines if line.startswith("Bound:") and "fp32" in line]
