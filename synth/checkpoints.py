"""From a name or a folder to the weights of a model, whichever way they are laid out.

Known layouts: Suno's .pt files, transformers' BarkModel (.bin or .safetensors, sharded or not) and
our own, a config.json beside one safetensors file a stage. Says which file is missing or broken;
whether each tensor has the right shape is `model.py`'s to say.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from synth import convert, layouts, weights
from synth.errors import InvalidRequest
from synth.interpreter import python
from synth.protocol import AUTO_MODEL, BUILT_IN_MODEL, RANDOM_MODEL
from synth.vocab import ModelConfig, from_json, to_json

STAGES = ("semantic", "coarse", "fine", "codec")
HUB_MODELS = ("suno/bark", "suno/bark-small")
FORMAT = "bark-for-discord 1"
_BUILT_IN_FOLDER = Path(__file__).parent / "nano" / "checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk (or in memory): its numbers, its tokenizer and its tensors by stage.

    load: stage -> tensors under Suno's names for the transformers and the `encodec` package's for
    the codec; mapped from their file where there is one, so reading a stage costs no memory yet.
    """

    config: ModelConfig
    tokenizer_file: Path
    load: Callable[[str], dict[str, Tensor]] = field(repr=False)
    source: str = ""

    def tensors(self, stage: str) -> dict[str, Tensor]:
        """The tensors of "semantic", "coarse", "fine" or "codec".

        Raises InvalidRequest when a file is damaged or holds nothing for that stage.
        """
        found = self.load(stage)
        if not found:
            raise InvalidRequest(
                f"{self.source} has no tensors for the {stage} stage: copy it again, or name "
                "another model."
            )
        return convert.tie_heads(found) if stage == "fine" else found


def open_checkpoint(source: str | Path, *, cache: Path | None = None) -> Checkpoint:
    """Open "suno/bark", "suno/bark-small" (from the hub's cache, never the network), "nano" (the
    model inside the package), "auto" (`default_model()`) or a folder.

    cache: where Suno's .pt files are kept once converted; `cache_folder()` when None.
    Raises InvalidRequest that names what is missing or broken and what to do about it.
    """
    if str(source) == AUTO_MODEL:
        source = default_model()
    if str(source) == RANDOM_MODEL:
        from synth.random_model import random_checkpoint

        made = random_checkpoint()
        return Checkpoint(
            made.config, made.tokenizer_file, lambda s: dict(made.tensors(s)), RANDOM_MODEL
        )
    if str(source) == BUILT_IN_MODEL:
        source = _BUILT_IN_FOLDER
    try:
        folder = Path(source).expanduser()
        if folder.is_dir():
            return _open_folder(folder, cache)
        if str(source) in HUB_MODELS:
            return _open_hub(str(source), cache)
        if folder.is_file():
            raise InvalidRequest(f"{source} is a file: name the folder that holds the whole model.")
    except (OSError, RuntimeError) as error:  # RuntimeError: ~somebody, who has no home here
        raise InvalidRequest(f"The model {source} cannot be read ({error}).") from None
    raise InvalidRequest(
        f"There is no model folder {source}: name an existing folder or one of "
        f"{', '.join(HUB_MODELS)}, {BUILT_IN_MODEL}."
    )


def cache_folder() -> Path:
    """Where converted weights live: under XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "bark-for-discord"


def default_model() -> str:
    """The best published model that is on this machine, else the one inside the package."""
    return next((name for name in HUB_MODELS if is_here(name)), BUILT_IN_MODEL)


def is_here(name: str) -> bool:
    """Whether one of HUB_MODELS is in the hub's cache, in either layout."""
    return _hub_folder(name) is not None or _shared_small(name) is not None


# -- Which layout ---------------------------------------------------------------------------------


def _open_folder(folder: Path, cache: Path | None) -> Checkpoint:
    config_file = folder / "config.json"
    values = layouts.read_json(config_file) if config_file.is_file() else {}
    if "format" in values:
        return _open_own(folder, values)
    has_suno = any(layouts.suno_file(folder, stage) for stage in layouts.SUNO_FILES)
    if "semantic_config" in values and (layouts.hf_weights(folder) or not has_suno):
        return Checkpoint(*layouts.open_hf(folder, values), str(folder))
    if has_suno:
        return open_suno_folder(folder, cache=cache)
    raise InvalidRequest(
        f"{folder} holds no model: expected Suno's text_2.pt, coarse_2.pt and fine_2.pt (or text.pt"
        ", coarse.pt, fine.pt), or config.json with the weights beside it."
    )


def open_suno_folder(
    folder: Path, *, small: Collection[str] = (), cache: Path | None = None
) -> Checkpoint:
    """Open Suno's .pt files in `folder`, for the stages in `small` the small ones.

    Without `small` each stage takes the larger file it finds.
    Raises InvalidRequest that lists every file that is missing.
    """
    opened = layouts.open_suno(folder, small=small, cache=cache or cache_folder())
    return Checkpoint(*opened, str(folder))


def _open_hub(name: str, cache: Path | None) -> Checkpoint:
    folder = _hub_folder(name)
    if folder is not None:
        return _open_folder(folder, cache)
    shared = _shared_small(name)
    if shared is not None:
        return open_suno_folder(shared, small=layouts.SUNO_FILES, cache=cache)
    raise InvalidRequest(
        f"The model {name} is not on this machine: run `{python()} -m synth fetch {name}` first, "
        "or name a folder that holds a model."
    )


def _hub_folder(name: str) -> Path | None:
    """The snapshot of `name` in the hub's cache that holds a whole model, if there is one."""
    for file in ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"):
        if found := layouts.cached_hub_file(name, file):
            return found.parent
    return _suno_files(name, "_2")


def _shared_small(name: str) -> Path | None:
    """Suno keeps the .pt files of both sizes in one repository."""
    return _suno_files("suno/bark", "") if name.endswith("-small") else None


def _suno_files(name: str, end: str) -> Path | None:
    stems = layouts.SUNO_FILES.values()
    found = [layouts.cached_hub_file(name, f"{stem}{end}.pt") for stem in stems]
    return found[0].parent if found[0] and all(found) else None


# -- Our own layout -------------------------------------------------------------------------------


def _open_own(folder: Path, values: Mapping[str, Any]) -> Checkpoint:
    if values["format"] != FORMAT:
        raise InvalidRequest(
            f"{folder}/config.json is of format {values['format']!r}; this version reads {FORMAT!r}"
            ": update one of them."
        )
    numbers = {key: value for key, value in values.items() if key != "format"}
    config = from_json(numbers, f"{folder}/config.json")
    missing = [f"{s}.safetensors" for s in STAGES if not (folder / f"{s}.safetensors").is_file()]
    tokenizer_file = layouts.tokenizer_file(folder)
    missing += [] if tokenizer_file else ["vocab.txt or tokenizer.json"]
    if missing or tokenizer_file is None:
        raise layouts.lacking(folder, missing)
    return Checkpoint(config, tokenizer_file, partial(_load_own, folder), str(folder))


def _load_own(folder: Path, stage: str) -> dict[str, Tensor]:
    stored = weights.read_safetensors(folder / f"{stage}.safetensors")
    out: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        scale = stored.get(f"{name}.scale")
        if scale is not None:
            tensor = from_int8_rows(tensor, scale)
        if not name.endswith(".scale"):
            out[name] = tensor
    return out


def int8_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights as int8 with one float scale a row, for a small file: (rows, ...) -> same, (rows,).

    Stored under NAME and NAME.scale; `Checkpoint.tensors` multiplies them again. The largest error
    of a row is its largest magnitude / 254.
    """
    weight = weight.float()
    scale = weight.flatten(1).abs().amax(dim=1).clamp(min=1e-12) / 127
    return torch.round(weight / _a_row(scale, weight)).to(torch.int8), scale


def _a_row(scale: Tensor, rows: Tensor) -> Tensor:
    """(rows,) in a shape that multiplies (rows, ...)."""
    return scale.reshape(-1, *[1] * (rows.dim() - 1))


def from_int8_rows(rows: Tensor, scale: Tensor) -> Tensor:
    """What `int8_rows` stood for, in the scale's type."""
    return rows.to(scale.dtype) * _a_row(scale, rows)


def save_checkpoint(
    folder: Path,
    config: ModelConfig,
    stages: Mapping[str, Mapping[str, Tensor]],
    tokenizer_file: Path,
) -> None:
    """Write our own layout to `folder`, all of it or nothing.

    stages: the tensors of each of STAGES; a matrix may be the two of `int8_rows`.
    Raises InvalidRequest when the disk refuses, or `folder` exists and holds something else.
    """
    folder = Path(folder)
    if folder.exists() and not _may_replace(folder):
        raise InvalidRequest(f"{folder} exists and is no model of ours: choose another folder.")
    name = "tokenizer.json" if tokenizer_file.suffix == ".json" else "vocab.txt"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial_folder = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise InvalidRequest(f"{folder} could not be made ({error.strerror}).") from None
    try:
        for stage in STAGES:
            weights.write_safetensors(partial_folder / f"{stage}.safetensors", stages[stage])
        shutil.copyfile(tokenizer_file, partial_folder / name)
        weights.write_json(partial_folder / "config.json", {"format": FORMAT, **to_json(config)})
        partial_folder.chmod(0o755)  # mkdtemp's own folder is private to its user
        if folder.exists():
            old = partial_folder.with_name(f"{partial_folder.name}.old")
            folder.rename(old)
            partial_folder.rename(folder)
            shutil.rmtree(old)
        else:
            partial_folder.rename(folder)
    except OSError as error:
        raise InvalidRequest(
            f"{folder} could not be written ({error.strerror}): free some space or choose another "
            "folder."
        ) from None
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)


def _may_replace(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    config = folder / "config.json"
    return not any(folder.iterdir()) or (config.is_file() and "format" in layouts.read_json(config))
