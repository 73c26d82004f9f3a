"""The command line says in one sentence what is missing; each of these was a traceback."""

from pathlib import Path

import pytest
import torch

from synth.nano.__main__ import EX_CONFIG, main


def _say(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    status = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return status, said.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("data", "name WordNet 3.0's `dict` folder"),
        ("data --wordnet /nowhere", "/nowhere has no data.noun"),
        ("tokens", "run `data` first"),
        ("align", "run `tokens` first"),
        ("train semantic", "run `tokens` first"),
        ("train coarse", "run `tokens` first"),
        ("train fine", "run `tokens` first"),
        ("train decoder", "run `align` first"),
        ("export --to /nowhere", "semantic.pt: run `train semantic` first"),
        ("adopt --model /nowhere", "/nowhere holds no training.npz"),
    ],
)
def test_an_empty_root(
    arguments: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    status, error = _say(capsys, "--root", tmp_path / "run", *arguments.split())
    assert status == 1
    assert said in error


def test_no_model_to_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("scipy", reason="the judges' extra is not installed")
    status, error = _say(capsys, "--root", tmp_path, "evaluate", "--model", tmp_path)
    assert status == EX_CONFIG
    assert f"There is no {tmp_path}/checkpoint" in error


@pytest.mark.parametrize("content", [b"", b"half", b"PK\x03\x04half"])
def test_a_damaged_checkpoint(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "checkpoints" / "semantic.pt"
    file.parent.mkdir()
    file.write_bytes(content)
    status, error = _say(capsys, "--root", tmp_path, "export", "--to", tmp_path / "out")
    assert status == 1
    assert f"{file} is damaged: remove it and run `train semantic` again" in error


def test_a_checkpoint_cut_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "checkpoints" / "semantic.pt"
    file.parent.mkdir()
    torch.save({"average": {"w": torch.zeros(10_000)}, "step": 1}, file)
    file.write_bytes(file.read_bytes()[:20_000])
    status, error = _say(capsys, "--root", tmp_path, "export", "--to", tmp_path / "out")
    assert status == 1
    assert f"{file} is damaged" in error


def test_no_utterances_at_all_are_wrong_arguments(tmp_path: Path):
    """With --size 0 the corpus was never long enough to end."""
    with pytest.raises(SystemExit) as ended:
        main(["--root", str(tmp_path), "data", "--size", "0"])
    assert ended.value.code == 2
