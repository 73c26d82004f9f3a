"""Files of a run appear whole, and those that are missing or damaged are named."""

from pathlib import Path

import numpy as np
import pytest
import torch

from synth.errors import InvalidRequest
from synth.nano.files import reading, whole
from synth.nano.units import Units
from tests.synth.nano.signals import codebooks


def test_a_block_that_fails_leaves_what_was_there(tmp_path: Path):
    file = tmp_path / "deep" / "file.txt"
    with whole(file) as part:
        part.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole(file) as part:
        part.write_text("ne")
        raise KeyboardInterrupt
    assert file.read_text() == "old"
    assert list(file.parent.iterdir()) == [file]


def test_a_folder_takes_its_name_at_the_end_and_clears_a_killed_one(tmp_path: Path):
    (tmp_path / "part-007").mkdir()
    (tmp_path / "part-007" / "left").touch()
    with whole(tmp_path / "007") as part:
        part.mkdir()
        assert not (tmp_path / "007").exists()
    assert [f.name for f in tmp_path.rglob("*")] == ["007"]


@pytest.mark.parametrize("kind", ["codebooks", "units"])
def test_quantizers_are_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str):
    """What exists is left alone: half a file stood for the quantizers ever after."""

    def full(file: Path, **arrays: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    one = torch.zeros(1, 1)
    made = codebooks() if kind == "codebooks" else Units(one, one, one)
    with pytest.raises(OSError, match="No space"):
        made.save(tmp_path / "made.npz")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_read_is_named(tmp_path: Path):
    file = tmp_path / "x.npz"
    with pytest.raises(InvalidRequest, match=r"There is no .*x\.npz: run `tokens` first"):
        with reading(file, "`tokens`"):
            np.load(file)
    file.write_bytes(b"half")
    with pytest.raises(InvalidRequest, match=r"x\.npz is damaged: remove it and run `tokens`"):
        with reading(file, "`tokens`"):
            np.load(file)
    with pytest.raises(InvalidRequest, match=r"x\.npz may not be read"):
        with reading(file, "`tokens`"):
            raise PermissionError(13, "Permission denied", str(file))
