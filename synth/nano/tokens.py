"""Turn spoken shards into semantic tokens and codes."""

import logging

import numpy as np

from synth.nano import units as semantic
from synth.nano.codebooks import Codebooks, fit_codebooks
from synth.nano.recipe import Paths
from synth.nano.shards import list_shards, open_shard

log = logging.getLogger(__name__)


def tokenize_shards(paths: Paths) -> None:
    """Fit quantizers on the first shard if there are none; then every shard without tokens."""
    folders = list_shards(paths)
    if not folders:
        raise SystemExit(f"No shards under {paths.shards}: run `data` first.")
    first = open_shard(folders[0])
    books = (
        Codebooks.load(paths.codebooks) if paths.codebooks.exists() else fit_codebooks(paths, first)
    )
    units = (
        semantic.Units.load(paths.units)
        if paths.units.exists()
        else semantic.fit_units(paths, first)
    )
    encoder = semantic.Encoder()
    for folder in folders:
        if (folder / "tokens.npz").exists():
            continue
        shard = open_shard(folder)
        codes = [
            books.encode(books.features(shard.waveform(i), shard.pitch(i))).numpy().astype(np.int16)
            for i in range(len(shard.text))
        ]
        tokens = semantic.tokenize(units, encoder, shard)
        for i, (c, s) in enumerate(zip(codes, tokens, strict=True)):
            n = min(c.shape[1], len(s))  # resampling may cost the last frame
            codes[i], tokens[i] = c[:, :n], s[:n]
        part = folder / "tokens.part.npz"
        np.savez(
            part,
            semantic=np.concatenate(tokens),
            codes=np.concatenate(codes, 1),
            ends=np.cumsum([len(s) for s in tokens]),
            voice=shard.voice,
        )
        part.rename(folder / "tokens.npz")
        log.info("shard %s: tokens written", folder.name)
