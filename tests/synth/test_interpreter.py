"""A command that people are told to type is one that runs where they are told."""

import subprocess
import sys
from pathlib import Path

import pytest

from synth.interpreter import python


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment's programs, beside other ones that are on the PATH."""
    for folder in (tmp_path / "here" / "bin", tmp_path / "elsewhere"):
        folder.mkdir(parents=True)
        for name in ("python", "python3"):
            (folder / name).symlink_to(sys.executable)
    monkeypatch.setattr("sys.executable", str(tmp_path / "here" / "bin" / "python3"))
    monkeypatch.setenv("PATH", str(tmp_path / "elsewhere"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "here" / "bin"


def test_an_environment_that_is_not_active_is_named_by_its_path(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python` was named, which is another one there, or none."""
    assert python() == "here/bin/python3"
    monkeypatch.chdir(environment)
    assert python() == "./python3"
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert python() == str(environment / "python3")
    monkeypatch.setattr("sys.executable", "/a folder/python")
    assert python() == '"/a folder/python"'


def test_an_active_one_is_named_briefly(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(environment))
    assert python() == "python"
    (environment / "python").unlink()
    assert python() == "python3"


def test_what_is_named_runs() -> None:
    command = f"{python()} -c 'import synth; print(synth.__name__)'"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout == "synth\n"
