"""One file of tensors, read without trusting it and written without leaving half of it.

Knows pickled torch files and safetensors. Knows nothing of Bark: what the names inside mean is for
`convert.py`, which files make a model for `checkpoints.py`.
"""

import glob
import json
import os
import re
import time
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray  # pyright: ignore[reportMissingImports]
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from synth.errors import InvalidRequest

_ABANDONED_S = 3600

# Suno's checkpoints hold their best validation loss as a numpy scalar, pickled under the name
# numpy had for it before 2.0. Nothing else beyond tensors is let in.
_SAFE_GLOBALS: list[Any] = [
    (multiarray.scalar, "numpy.core.multiarray.scalar"),
    multiarray.scalar,
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
]


def read_torch(path: Path) -> dict[str, Any]:
    """What `torch.save` wrote to `path`, tensors mapped from the file where its format allows.

    Raises InvalidRequest when the file is missing, cut short, no torch file, or a pickle that asks
    for anything but tensors, numbers and containers: such a file is never run.
    """
    try:
        mapped = path.is_file() and zipfile.is_zipfile(path)
        _refuse_strangers(path, zipped=mapped)
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read ({error.strerror}).") from None
    try:
        with torch.serialization.safe_globals(_SAFE_GLOBALS):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch raises a dozen kinds for a bad file
        raise InvalidRequest(_why_torch_refused(path, error)) from None
    if not isinstance(content, Mapping):
        raise InvalidRequest(
            f"{path} is a torch file but holds a {type(content).__name__}, not named tensors."
        )
    return dict(content)


def _refuse_strangers(path: Path, *, zipped: bool) -> None:
    """Name the files that people mistake for weights, before torch guesses at them."""
    if not path.is_file():
        raise InvalidRequest(f"{path} does not exist: get it again.")
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise InvalidRequest(
            f"{path} is a Git LFS pointer and not the weights: run `git lfs pull` in its folder."
        )
    if head.lstrip().lower().startswith((b"<html", b"<!doctype")):
        raise InvalidRequest(f"{path} is a web page and not weights: download the file again.")
    if head.startswith(b"PK") and not zipped or not head:
        raise InvalidRequest(f"{path} is cut short: download or copy it again.")


def _why_torch_refused(path: Path, error: Exception) -> str:
    asked = re.search(r"unsupported (?:global: )?global (\S+)", str(error), re.IGNORECASE)
    if asked:
        return (
            f"{path} was refused: it asks to run `{asked[1]}`, which no checkpoint needs; "
            "do not use this file."
        )
    return f"{path} cannot be read as a torch file: it is damaged, cut short or something else."


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, mapped and not copied.

    Raises InvalidRequest when the file is missing, cut short or no safetensors file.
    """
    try:
        if not path.is_file():
            raise InvalidRequest(f"{path} does not exist: get or convert it again.")
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except PermissionError as error:
        raise InvalidRequest(f"{path} cannot be read ({error.strerror}).") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise InvalidRequest(
            f"{path} is cut short or no safetensors file ({error}): get or convert it again."
        ) from None


def read_metadata(path: Path) -> dict[str, str]:
    """The notes stored beside the tensors of a safetensors file; raises as `read_safetensors`."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise InvalidRequest(f"{path} is cut short or no safetensors file ({error}).") from None


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write `tensors` to `path`; on any failure `path` is what it was and nothing else is left.

    Tensors that share memory are stored apart. Raises InvalidRequest when the disk refuses.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        save_file(_unshared(tensors), partial, metadata={"format": "pt", **(metadata or {})})
        partial.chmod(0o666 & ~_umask())  # save_file's own temporary file is private to its user
        flush_to_disk(partial)
        os.replace(partial, path)
    except (SafetensorError, OSError) as error:
        raise InvalidRequest(
            f"{path} could not be written ({_plain(error)}): free some space or choose another "
            "folder."
        ) from None
    finally:
        partial.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove what writers of `path` left behind who were killed: gigabytes, that nobody else sees.

    One that is still at work has touched its file within the hour.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                left.unlink()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    flush_to_disk(path)


def flush_to_disk(path: Path) -> None:
    """A rename must not reach the disk before the bytes it points to."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """safetensors refuses tensors that share memory, such as Bark's tied heads."""
    seen: set[int] = set()
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        fresh = storage in seen or not tensor.is_contiguous()
        out[name] = tensor.contiguous().clone() if fresh else tensor
        seen.add(storage)
    return out


def _umask() -> int:
    # There is no way to read it but to set it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _plain(error: Exception) -> str:
    with suppress(AttributeError):
        if error.strerror:  # type: ignore[attr-defined]
            return error.strerror  # type: ignore[attr-defined]
    return str(error).removeprefix("Error while serializing: ")
