"""A run's files: written whole or not at all, and a plain sentence where one is missing.

What a run finds under its name it takes for done and leaves alone, so nothing may stand there half
written.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from synth.errors import InvalidRequest


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields where to write the file, or make the folder, that `path` becomes at the end.

    A file that exists is replaced, a folder is not. A block that fails leaves nothing, and what a
    killed one left is cleared by the next.
    """
    part = path.with_name(f"part-{path.name}")  # numpy and torch go by the suffix
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove(part)
    try:
        yield part
        part.replace(path)
    finally:
        _remove(part)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def reading(path: Path, maker: str) -> Iterator[None]:
    """Inside, `path` is opened and read; `maker` says which command writes it.

    Raises InvalidRequest that names both when the file is missing or damaged.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidRequest(f"There is no {path}: run {maker} first.") from None
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except PermissionError:
        raise InvalidRequest(f"{path} may not be read by this user.") from None
    except Exception as error:  # half a pickle raises what it happens to spell
        raise InvalidRequest(f"{path} is damaged: remove it and run {maker} again.") from error
