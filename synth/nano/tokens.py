"""Turn spoken shards into semantic tokens and codes."""

import logging
from pathlib import Path

import numpy as np
import torch

from synth.errors import InvalidRequest
from synth.nano import units as semantic
from synth.nano.codebooks import Codebooks, fit_codebooks
from synth.nano.files import whole
from synth.nano.recipe import FINE, Paths
from synth.nano.shards import in_processes, list_shards, open_shard

log = logging.getLogger(__name__)


def tokenize_shards(paths: Paths, workers: int = 1) -> None:
    """Fit quantizers on the first shard if there are none; then every shard without tokens.

    Raises InvalidRequest when nothing has been spoken yet.
    """
    folders = list_shards(paths)
    if not folders:
        raise InvalidRequest(f"No shards under {paths.shards}: run `data` first.")
    first = open_shard(folders[0])
    if not paths.codebooks.exists():
        fit_codebooks(paths, first)
    if not paths.units.exists():
        semantic.fit_units(paths, first)
    missing = [f for f in folders if not (f / "tokens.npz").exists()]
    in_processes(tokenize_shard, [(paths, f) for f in missing], workers)


def tokenize_shard(paths: Paths, folder: Path) -> None:
    """Write a shard's tokens.npz, whole or not at all."""
    torch.set_num_threads(1)
    books, units = Codebooks.load(paths.codebooks), semantic.Units.load(paths.units)
    shard = open_shard(folder)
    codes = [
        books.encode(books.features(shard.waveform(i), shard.pitch(i))).numpy().astype(np.int16)
        for i in range(len(shard.text))
    ]
    tokens = semantic.tokenize(units, semantic.Encoder(), shard)
    for i, (c, s) in enumerate(zip(codes, tokens, strict=True)):
        n = min(c.shape[1], len(s))  # resampling may cost the last frame
        codes[i], tokens[i] = c[:, :n], s[:n]
    with whole(folder / "tokens.npz") as part:
        np.savez(
            part,
            # Of a shard in which nothing was said there is nothing to concatenate.
            semantic=np.concatenate([np.zeros(0, np.int16), *tokens]),
            codes=np.concatenate([np.zeros((FINE.codebooks, 0), np.int16), *codes], 1),
            ends=np.cumsum([len(s) for s in tokens], dtype=np.int64),
            voice=shard.voice,
        )
    log.info("shard %s: tokens written", folder.name)
