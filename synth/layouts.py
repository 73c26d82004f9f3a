"""Where other people's checkpoints keep things: Suno's .pt files and transformers' BarkModel.

Finds the files in a folder, names those that are missing, and hands on their content in our terms.
What the names inside mean is `convert.py`'s, how a file is read `weights.py`'s.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor

from synth import convert, weights
from synth.errors import InvalidRequest
from synth.vocab import ModelConfig

logger = logging.getLogger(__name__)

TOKENIZER_FILES = ("vocab.txt", "tokenizer.json")  # the bare list first: it carries no settings
SUNO_FILES = {"semantic": "text", "coarse": "coarse", "fine": "fine"}
_CODEC_HUB = "facebook/encodec_24khz"
_BERT = "bert-base-multilingual-cased"  # the original still asks for it by this older name
_TOKENIZER_HUB = ("suno/bark", "suno/bark-small", _BERT, f"google-bert/{_BERT}")
_CONVERSION = 1  # goes up when what a converted copy holds changes


class Opened(NamedTuple):
    """What a folder holds: the numbers, the tokenizer, and stage -> tensors under our names."""

    config: ModelConfig
    tokenizer_file: Path
    load: Callable[[str], dict[str, Tensor]]


def cached_hub_file(repo: str, file: str) -> Path | None:
    """A file of a hub repository if it is on this machine; HF_HOME says where to look."""
    found = try_to_load_from_cache(repo, file)
    return Path(found) if isinstance(found, str) else None


def tokenizer_file(folder: Path) -> Path | None:
    return next((folder / name for name in TOKENIZER_FILES if (folder / name).is_file()), None)


def lacking(folder: Path, missing: Collection[str]) -> InvalidRequest:
    return InvalidRequest(
        f"{folder} lacks {', '.join(missing)}: put it there, or name another model."
    )


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; raises InvalidRequest that names the file when it is anything else."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{file} is no JSON file ({error}): copy it again.") from None
    if not isinstance(values, dict):
        raise InvalidRequest(f"{file} should hold a JSON object: copy it again.")
    return values


# -- Suno's .pt files -----------------------------------------------------------------------------


def open_suno(folder: Path, *, small: Collection[str] = (), cache: Path) -> Opened:
    """Open text_2.pt, coarse_2.pt, fine_2.pt, encodec_24khz*.th and vocab.txt in `folder`.

    small: the stages to take from text.pt, coarse.pt, fine.pt even where the large one is there;
    without it each stage takes the larger it finds. A codec or vocabulary that is not in the folder
    is looked for where the original's libraries keep theirs.
    Raises InvalidRequest that lists every file that is missing.
    """
    files = {stage: suno_file(folder, stage, small=stage in small) for stage in SUNO_FILES}
    codec_file = _codec_file(folder)
    vocabulary = tokenizer_file(folder) or _cached_tokenizer()
    # A folder of which nothing large is there is one of the small model.
    large = any(file.stem.endswith("_2") for file in files.values() if file)
    missing = [
        f"{SUNO_FILES[stage]}{'_2' if large and stage not in small else ''}.pt"
        for stage, file in files.items()
        if file is None
    ]
    missing += ["encodec_24khz-d7cc33bc.th"] if codec_file is None else []
    missing += ["vocab.txt or tokenizer.json"] if vocabulary is None else []
    if missing or codec_file is None or vocabulary is None:
        raise lacking(folder, missing)
    found = {stage: file for stage, file in files.items() if file is not None}
    stages = {stage: _Converted(stage, file, cache) for stage, file in found.items()}
    config = convert.suno_config(
        {stage: pt.model_args() for stage, pt in stages.items()}, folder.resolve().name
    )

    def load(stage: str) -> dict[str, Tensor]:
        if stage != "codec":
            return stages[stage].tensors()
        read = (
            weights.read_safetensors if codec_file.suffix == ".safetensors" else weights.read_torch
        )
        return _first_books(convert.codec(read(codec_file)), config)

    return Opened(config, vocabulary, load)


class _Converted:
    """One of Suno's .pt files, kept as safetensors in `cache` after it was read once.

    Two thirds of such a file is the state of its optimizer, and a pickle has to be distrusted anew
    at each reading. The copy's name holds the original's place, size and time.
    """

    def __init__(self, stage: str, file: Path, cache: Path) -> None:
        self.stage = stage
        self.file = file
        stat = file.stat()
        mark = f"{file.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{_CONVERSION}"
        key = hashlib.sha256(mark.encode()).hexdigest()[:16]
        self.copy = cache / "converted" / f"{file.stem}-{key}.safetensors"
        if self._copy_is_whole():
            return
        logger.info("Converting %s once; later starts read the copy in %s", file, cache)
        tensors, args = self._read_original()
        try:
            weights.write_safetensors(self.copy, tensors, {"model_args": json.dumps(args)})
        except InvalidRequest as error:
            logger.warning("%s Going on with %s itself.", error, file)

    def model_args(self) -> dict[str, Any]:
        if self._copy_is_whole():
            return json.loads(weights.read_metadata(self.copy)["model_args"])
        return self._read_original()[1]

    def tensors(self) -> dict[str, Tensor]:
        if self._copy_is_whole():
            return weights.read_safetensors(self.copy)
        return self._read_original()[0]

    def _copy_is_whole(self) -> bool:
        """Whether the copy opens; a copy that a crash of the machine cut short is made again."""
        try:
            return self.copy.is_file() and "model_args" in weights.read_metadata(self.copy)
        except (InvalidRequest, OSError):  # OSError: a cache that may not be looked into
            return False

    def _read_original(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        content = weights.read_torch(self.file)
        state, args = content.get("model"), content.get("model_args")
        if not isinstance(state, Mapping) or not isinstance(args, Mapping):
            raise InvalidRequest(
                f"{self.file} holds no `model` with its `model_args`: this is not one of Suno's "
                "Bark checkpoints."
            )
        numbers = {key: value for key, value in args.items() if isinstance(value, int | float)}
        return convert.suno_transformer(state), numbers


def suno_file(folder: Path, stage: str, *, small: bool = False) -> Path | None:
    stem = SUNO_FILES[stage]
    names = (f"{stem}.pt",) if small else (f"{stem}_2.pt", f"{stem}.pt")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _codec_file(folder: Path) -> Path | None:
    found = sorted(folder.glob("encodec_24khz*.th")) + sorted(folder.glob("encodec*.safetensors"))
    found += sorted(Path(torch.hub.get_dir(), "checkpoints").glob("encodec_24khz*.th"))
    return found[0] if found else cached_hub_file(_CODEC_HUB, "model.safetensors")


def _cached_tokenizer() -> Path | None:
    cached = (cached_hub_file(r, name) for r in _TOKENIZER_HUB for name in TOKENIZER_FILES)
    return next((file for file in cached if file), None)


def _first_books(codec: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Without the codebooks of the bandwidths Bark does not use: 8 of EnCodec's 32 remain."""
    prefix = "quantizer.vq.layers."
    return {
        name: tensor
        for name, tensor in codec.items()
        if not name.startswith(prefix)
        or int(name.removeprefix(prefix).split(".")[0]) < config.fine.codebooks
    }


# -- transformers' layout -------------------------------------------------------------------------


def hf_weights(folder: Path) -> list[Path]:
    """The weight files of a folder in transformers' layout; safetensors win over pickles."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = read_json(index).get("weight_map")
            if not isinstance(shards, Mapping) or not shards:
                raise InvalidRequest(f"{index} names no shards: copy it again.")
            # Only the name counts, whatever path a foreign index writes there.
            return sorted({folder / Path(str(shard)).name for shard in shards.values()})
        if (folder / name).is_file():
            return [folder / name]
    return []


def open_hf(folder: Path, values: Mapping[str, Any]) -> Opened:
    files = hf_weights(folder)
    missing = [file.name for file in files if not file.is_file()]
    missing += [] if files else ["model.safetensors or pytorch_model.bin"]
    vocabulary = tokenizer_file(folder) or _cached_tokenizer()
    missing += [] if vocabulary else ["vocab.txt or tokenizer.json"]
    if missing or vocabulary is None:
        raise lacking(folder, missing)
    generation_file = folder / "generation_config.json"
    generation = read_json(generation_file) if generation_file.is_file() else {}
    tokenizer_config = folder / "tokenizer_config.json"
    told = read_json(tokenizer_config) if tokenizer_config.is_file() else {}
    lower_case = told.get("do_lower_case") is True
    config = convert.hf_config(values, generation, folder.resolve().name, lower_case)

    def load(stage: str) -> dict[str, Tensor]:
        prefix = convert.HF_PREFIX[stage]
        state: dict[str, Tensor] = {}
        for file in files:
            safe = file.suffix == ".safetensors"
            content = weights.read_safetensors(file) if safe else weights.read_torch(file)
            state |= {n.removeprefix(prefix): t for n, t in content.items() if n.startswith(prefix)}
        if stage == "codec":
            return _first_books(convert.codec(state), config)
        return convert.hf_transformer(state)

    return Opened(config, vocabulary, load)
