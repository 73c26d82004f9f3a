"""Voices: the presets that ship with the package, and history prompts saved in Suno's .npz form.

A voice is checked once, here, where it enters: whole numbers, in range, of this model's family, and
long enough; lengths that do not match each other are trimmed. Knows nothing of tensors or Discord.
"""

import csv
import difflib
import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np

from synth.errors import InvalidRequest
from synth.interpreter import python
from synth.protocol import BUILT_IN_MODEL, Gender, HistoryPrompt, IntArray, VoiceInfo
from synth.vocab import BARK, ModelConfig

_HERE = Path(__file__).parent
PACKS = (_HERE / "data", _HERE / "nano")  # folders that may hold a pack of voices
ARRAYS_FILE = "voices.npz"
TABLE_FILE = "voices.csv"
_NPZ_LIMIT_BYTES = 64 * 2**20  # uncompressed; the longest preset is a hundredth of this


class VoiceBook:
    """The voices a model can speak with, by name."""

    def __init__(self, config: ModelConfig, packs: Iterable[Path] = PACKS) -> None:
        opened = [_open(folder) for folder in packs if (folder / TABLE_FILE).is_file()]
        self._by_name = {
            row.info.name: (pack, row)
            for pack in opened
            if pack.family == config.family
            for row in pack.rows
        }
        self._lower = {name.lower(): name for name in self._by_name}
        self._elsewhere = {
            row.info.name.lower(): row.info.name
            for pack in opened
            if pack.family != config.family
            for row in pack.rows
        }
        self._model = config.name
        self.infos: tuple[VoiceInfo, ...] = tuple(row.info for _, row in self._by_name.values())

    def get(self, name: str) -> HistoryPrompt:
        """The voice called `name`, as "v2/en_speaker_6"; case does not matter.

        Raises InvalidRequest that offers the nearest names when there is no such voice.
        """
        pack, row = self._by_name[self.resolve(name)]
        return pack.history(row)

    def resolve(self, name: str) -> str:
        """The exact name of a voice written as people write it; raises as `get`."""
        wanted = name.strip().replace("\\", "/").lower()
        if wanted in self._lower:
            return self._lower[wanted]
        if wanted in self._elsewhere:
            other = self._elsewhere[wanted]
            remedy = "choose another model with --model"
            if not other.startswith(f"{BUILT_IN_MODEL}/"):
                remedy = f"get Bark with `{python()} -m synth fetch suno/bark-small`"
            near = ", ".join(list(self._by_name)[:4])
            offer = f", or take a voice of its own, such as {near}" if near else ""
            raise InvalidRequest(
                f"The voice {other} is not for the model {self._model}: {remedy}{offer}."
            )
        if not self._lower:
            raise InvalidRequest(
                f"There is no voice {_short(name)!r}: this model has no named voices."
            )
        near = difflib.get_close_matches(wanted, self._lower, n=3, cutoff=0.5)
        if not near:
            raise InvalidRequest(
                f"There is no voice {_short(name)!r}, nor one like it; one is {self.infos[0].name}."
            )
        offer = ", ".join(self._lower[key] for key in near)
        raise InvalidRequest(f"There is no voice {_short(name)!r}; the nearest are {offer}.")


@cache  # asked on the bot's event loop, and the tables never change
def shipped_voices() -> tuple[VoiceInfo, ...]:
    """The voices that ship with the package, Bark's first, for whichever model they are."""
    tables = (folder / TABLE_FILE for folder in PACKS)
    return tuple(row.info for table in tables if table.is_file() for row in _rows(table))


def shipped_voice(name: str) -> VoiceInfo | None:
    """What is known of the voice of that name, upper and lower case alike."""
    return next((info for info in shipped_voices() if info.name.lower() == name.lower()), None)


def _short(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:59]}…"


# -- Packs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PackRow:
    """A voice in a pack: where its arrays start and how long they are."""

    info: VoiceInfo
    semantic: slice
    frames: slice


class VoicePack:
    """A folder with `voices.csv`, the table, and `voices.npz`, all arrays end to end.

    voices.npz: semantic (n,) int16; fine (8, m) int16, whose first books are the coarse codes too;
    family, a string. A voice whose `same_as` names an earlier one has no arrays of its own.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / ARRAYS_FILE
        self.rows = tuple(_rows(folder / TABLE_FILE))

    @cached_property
    def _arrays(self) -> dict[str, Any]:
        with np.load(self._file, allow_pickle=False) as arrays:
            return dict(arrays)

    @property
    def family(self) -> str:
        return str(self._arrays["family"])

    def history(self, row: PackRow) -> HistoryPrompt:
        fine = self._arrays["fine"][:, row.frames].astype(np.int64)
        return HistoryPrompt(
            semantic=self._arrays["semantic"][row.semantic].astype(np.int64),
            coarse_codes=fine[: int(self._arrays["coarse_codebooks"])].copy(),
            fine_codes=fine,
            family=self.family,
        )


@cache
def _open(folder: Path) -> VoicePack:
    """A pack never changes once it ships: one copy serves every book."""
    return VoicePack(folder)


def _rows(table: Path) -> Iterable[PackRow]:
    places: dict[str, tuple[slice, slice]] = {}
    token = frame = 0
    with table.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            info = VoiceInfo(
                name=line["name"],
                language=line["language"],
                version=line["version"],
                gender=Gender(line["gender"]),
                duration_s=float(line["duration_s"]),
            )
            if line["same_as"]:
                places[info.name] = places[line["same_as"]]
            else:
                tokens, frames = int(line["semantic_tokens"]), int(line["frames"])
                places[info.name] = slice(token, token + tokens), slice(frame, frame + frames)
                token, frame = token + tokens, frame + frames
            yield PackRow(info, *places[info.name])


# -- Saved voices ---------------------------------------------------------------------------------


def is_npz(name: str | os.PathLike[str]) -> bool:
    """Whether a voice is named by its file and not as one of the model's own."""
    return os.fspath(name).lower().endswith(".npz")


def load_npz(file: str | Path | IO[bytes], config: ModelConfig) -> HistoryPrompt:
    """Read a voice in Suno's form: semantic_prompt, coarse_prompt, fine_prompt, and our `family`.

    Without `family` it counts as Bark's. Nothing in the file is ever executed.
    Raises InvalidRequest when it is no such file or `validate` refuses what it holds.
    """
    where = str(file) if isinstance(file, str | Path) else "The voice file"
    try:
        with zipfile.ZipFile(file) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _NPZ_LIMIT_BYTES:
                raise InvalidRequest(f"{where} is far larger than any voice: choose another file.")
        if not isinstance(file, str | Path):
            file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            found = {
                name: arrays[name]
                for name in ("semantic_prompt", "coarse_prompt", "fine_prompt", "family")
                if name in arrays
            }
    except InvalidRequest:
        raise
    except FileNotFoundError:
        raise InvalidRequest(f"There is no voice file {where}.") from None
    except Exception as error:  # numpy, zipfile and the decompressors raise a dozen kinds
        if isinstance(error, OSError) and error.strerror:
            raise InvalidRequest(f"{where} cannot be read ({error.strerror}).") from None
        raise InvalidRequest(f"{where} is no voice: expected an .npz file of numbers.") from None
    missing = [n for n in ("semantic_prompt", "coarse_prompt", "fine_prompt") if n not in found]
    if missing:
        raise InvalidRequest(f"{where} is no voice: it lacks {', '.join(missing)}.")
    history = HistoryPrompt(
        semantic=found["semantic_prompt"],
        coarse_codes=found["coarse_prompt"],
        fine_codes=found["fine_prompt"],
        family=str(found["family"])[:40] if "family" in found else BARK.family,
    )
    return validate(history, config, where)


def save_npz(path: str | Path, history: HistoryPrompt) -> None:
    """Write a voice that `load_npz` and the original read; `path` holds all of it or is untouched.

    Raises InvalidRequest when `path` does not end in .npz or the disk refuses.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise InvalidRequest(f"A voice is saved as .npz: call it {path.with_suffix('.npz').name}.")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            np.savez(
                file,
                semantic_prompt=np.asarray(history.semantic, np.int64),
                coarse_prompt=np.asarray(history.coarse_codes, np.int64),
                fine_prompt=np.asarray(history.fine_codes, np.int64),
                family=np.array(history.family),
            )
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise InvalidRequest(
            f"{path} could not be written ({error.strerror}): free some space or choose another "
            "folder."
        ) from None
    finally:
        partial.unlink(missing_ok=True)


def validate(
    history: HistoryPrompt, config: ModelConfig, where: str = "The voice"
) -> HistoryPrompt:
    """A history prompt that is safe to continue from, as int64 arrays of its own.

    Where codes and semantic tokens do not cover the same time, the ends that stick out are cut.
    The original refuses these (bark/generation.py:547); what it accepts is not touched.
    Raises InvalidRequest that names the array and what is wrong with it.
    """
    if history.family != config.family:
        raise InvalidRequest(
            f"{where} belongs to another model (family {history.family}; {config.name} is of "
            f"{config.family}): use a voice of {config.name}, or the model it was made with."
        )
    size = config.codec.codebook_size
    semantic = _whole_numbers(where, "semantic_prompt", history.semantic, 1, config.semantic.vocab)
    coarse = _whole_numbers(where, "coarse_prompt", history.coarse_codes, 2, size)
    fine = _whole_numbers(where, "fine_prompt", history.fine_codes, 2, size)
    for name, codes, books in (
        ("coarse_prompt", coarse, config.coarse.codebooks),
        ("fine_prompt", fine, config.fine.codebooks),
    ):
        if codes.shape[0] != books:
            raise InvalidRequest(
                f"{where}: {name} should have {books} rows, one a codebook, and has "
                f"{codes.shape[0]}."
            )
    frames_per_token = config.ratio / config.coarse.codebooks
    if round(coarse.shape[1] / len(semantic), 1) != round(frames_per_token, 1):
        tokens = min(len(semantic), int(coarse.shape[1] / frames_per_token))
        frames = min(coarse.shape[1], round(tokens * frames_per_token))
        if tokens < 2:
            raise InvalidRequest(
                f"{where} is too short: its arrays share less than 2 semantic tokens."
            )
        semantic, coarse, fine = semantic[:tokens], coarse[:, :frames], fine[:, :frames]
    return HistoryPrompt(semantic, coarse, fine, history.family)


def _whole_numbers(where: str, name: str, array: Any, dimensions: int, limit: int) -> IntArray:
    values = np.asarray(array)
    if values.dtype.kind not in "iu":
        raise InvalidRequest(f"{where}: {name} should hold whole numbers, not {values.dtype}.")
    if values.ndim != dimensions or values.size == 0:
        raise InvalidRequest(
            f"{where}: {name} should be {dimensions}-dimensional and not empty; its shape is "
            f"{values.shape}."
        )
    if values.min() < 0 or values.max() >= limit:
        raise InvalidRequest(
            f"{where}: {name} should hold numbers from 0 to {limit - 1}; found "
            f"{values.min()} to {values.max()}."
        )
    return values.astype(np.int64)
