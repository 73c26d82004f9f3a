"""What an export carries for training to go on elsewhere: `training.npz` and `curve.json`.

An exported model alone cannot be trained on: its tokens mean what the quantizers say that were
fitted on one machine's teacher speech, and the decoder's jury is no part of it. `write_handover`
keeps both beside the model, as small as the model's own weights, and how far each stage has come.
`adopt` makes a run's folder of it that looks as if its stages had just stopped. Optimizers start
afresh.
"""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from synth.checkpoints import Checkpoint, from_int8_rows, int8_rows, open_checkpoint
from synth.errors import InvalidRequest
from synth.nano import oscillator
from synth.nano.codebooks import Codebooks
from synth.nano.files import reading, whole
from synth.nano.gpt import FineModel, coarse_model, semantic_model
from synth.nano.recipe import NANO, Paths
from synth.nano.trainer import read_checkpoint
from synth.nano.vocoder import Vocoder

log = logging.getLogger(__name__)

STATE_FILE = "training.npz"
CURVE_FILE = "curve.json"
# Each stage, and the part of a config that gives its shape.
_PARTS = {
    "semantic": "semantic_shape",
    "coarse": "coarse_shape",
    "fine": "fine_shape",
    "decoder": "codec",
}
_STAGES = tuple(_PARTS)
_NETWORKS = ("codebooks.refiner.", "jury.")  # kept as int8 rows; quantizers as fp16


def write_handover(paths: Paths, folder: Path) -> None:
    """Write quantizers, jury and curves of the run at `paths` into `folder`.

    Raises InvalidRequest when one of the run's files is missing or damaged.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, file in (("codebooks", paths.codebooks), ("units", paths.units)):
        with reading(file, "`tokens`"):
            arrays |= {f"{name}.{key}": value for key, value in np.load(file).items()}
    told: dict[str, Any] = {}
    for stage in _STAGES:
        held = read_checkpoint(paths.checkpoint(stage))
        told[stage] = {key: held[key] for key in ("step", "cpu_s", "curve")}
        if crops := held["extra"].get("crops"):
            told[stage]["crops"] = crops
        if jury := held["extra"].get("jury"):
            arrays |= {f"jury.{key}": value.cpu().numpy() for key, value in jury.items()}
    small: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if array.ndim >= 2 and name.startswith(_NETWORKS):
            rows, scale = int8_rows(torch.from_numpy(array))
            small |= {name: rows.numpy(), f"{name}.scale": scale.numpy()}
        else:
            small[name] = array.astype(np.float16) if array.ndim else array
    np.savez_compressed(folder / STATE_FILE, allow_pickle=False, **small)
    (folder / CURVE_FILE).write_text(json.dumps(told, indent=1) + "\n")


def adopt(paths: Paths, folder: Path) -> list[str]:
    """Make the run at `paths` go on from the export in `folder`; returns the stages taken over.

    What the run has already, quantizers or a stage's checkpoint, is left alone; so is a stage that
    the recipe gives another shape by now: it begins anew.
    Raises InvalidRequest when `folder` holds no handover, or a damaged one.
    """
    for file in (STATE_FILE, CURVE_FILE):
        if not (folder / file).is_file():
            raise InvalidRequest(f"{folder} holds no {file}: name a folder that `export` wrote.")
    with reading(folder / STATE_FILE, "`export`"):
        held = dict(np.load(folder / STATE_FILE))
    with reading(folder / CURVE_FILE, "`export`"):
        told = json.loads((folder / CURVE_FILE).read_text())
    for name, file in (("codebooks", paths.codebooks), ("units", paths.units)):
        if not file.exists():
            with whole(file) as part:
                np.savez(part, allow_pickle=False, **_under(held, name))
    checkpoint = open_checkpoint(folder / "checkpoint")
    taken: list[str] = []
    for stage in _STAGES:
        path = paths.checkpoint(stage)
        if path.exists():
            continue
        shape = _PARTS[stage]
        if getattr(checkpoint.config, shape) != getattr(NANO, shape):
            log.warning("%s: the recipe has another shape than the export; it begins anew", stage)
            continue
        weights = _weights(stage, checkpoint, paths)
        state = {
            "model": weights,
            "average": {k: v.clone() for k, v in weights.items()},
            "optimizer": None,
            **{key: told[stage][key] for key in ("step", "cpu_s", "curve")},
            "extra": _extra(held, told[stage]) if stage == "decoder" else {},
        }
        with whole(path) as part:
            torch.save(state, part)
        taken.append(stage)
        log.info("%s: goes on from step %d", stage, told[stage]["step"])
    return taken


def _extra(held: dict[str, np.ndarray], told: dict[str, Any]) -> dict[str, Any]:
    """What the decoder's checkpoint holds besides its model: the jury, and the crops it heard."""
    jury = {k: torch.from_numpy(v) for k, v in _under(held, "jury").items()}
    return {"jury": jury, "crops": told.get("crops", 0)} if jury else {}


def _under(held: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """The arrays of one part, in single precision."""
    start = name + "."
    parts = {key.removeprefix(start): held[key] for key in held if key.startswith(start)}
    out: dict[str, np.ndarray] = {}
    for key, value in parts.items():
        if f"{key}.scale" in parts:
            scale = torch.from_numpy(parts[f"{key}.scale"])
            out[key] = from_int8_rows(torch.from_numpy(value), scale).numpy()
        elif not key.endswith(".scale"):
            out[key] = value.astype(np.float32) if value.ndim else value
    return out


def _weights(stage: str, checkpoint: Checkpoint, paths: Paths) -> dict[str, Tensor]:
    """A stage's exported tensors under the names and in the shapes that training uses."""
    if stage == "decoder":
        return _decoder_weights(checkpoint, paths)
    make: dict[str, nn.Module] = {
        "semantic": semantic_model(NANO.semantic_shape),
        "coarse": coarse_model(NANO.coarse_shape),
        "fine": FineModel(NANO.fine_shape),
    }
    model, found = make[stage], checkpoint.tensors(stage)
    model.load_state_dict({name: found[name].float() for name in model.state_dict()})
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def _decoder_weights(checkpoint: Checkpoint, paths: Paths) -> dict[str, Tensor]:
    """The decoder's; what its training holds fixed is as exact as the run's codebooks."""
    books = Codebooks.load(paths.codebooks)
    vocoder = Vocoder(books)
    found = checkpoint.tensors("codec")
    out: dict[str, Tensor] = {"rows": books.rows}
    for name in vocoder.state_dict().keys() - out.keys():
        stem = name.removesuffix("_g").removesuffix("_v")
        if name.endswith("weight_g"):  # the norm that folding multiplied in
            weight = found[stem].float()
            length = weight.flatten(1).norm(dim=1)
            out[name] = length.reshape(-1, *[1] * (weight.dim() - 1))
        else:
            out[name] = found[stem].float()
    vocoder.load_state_dict(out)
    oscillator.restore(vocoder.decoder, books.scaler)
    return {name: value.detach().clone() for name, value in vocoder.state_dict().items()}
