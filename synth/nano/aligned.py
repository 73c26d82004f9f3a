"""Teacher speech at the phase that the decoder's oscillator has: what the decoder learns from.

The oscillator (`oscillator.py`) is fixed before training, so for an utterance's codes the phase of
its voiced sound is known. The teacher is rendered again with pulses at that phase. Then the decoder
can be told sample by sample what the voiced part should be, where spectra alone would leave it to
find a phase, and a pitch, that nothing rewards until both are right.

`aligned/NNN` beside a shard: `audio.i16`, `harmonic.i16` (the part that pulses made), and
`index.npz` (codes, ends in frames, per frame the units that hand the phase on).
"""

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from synth.codec import build_decoder
from synth.errors import InvalidRequest
from synth.nano import oscillator
from synth.nano.codebooks import Codebooks
from synth.nano.files import whole
from synth.nano.recipe import CODEC, FINE, NANO, SEED, SHARD, VOICES, Paths
from synth.nano.shards import in_processes, list_shards, open_shard
from synth.nano.teacher import Phase

log = logging.getLogger(__name__)


def fresh_decoder(books: Codebooks) -> nn.Module:
    """An untrained decoder with its oscillator, in the layout it is trained in."""
    with warnings.catch_warnings():  # encodec uses a weight_norm that torch calls old
        warnings.simplefilter("ignore")
        decoder = build_decoder(NANO, norm="weight_norm")
    oscillator.install(decoder, books.scaler)
    return decoder


def align_shards(paths: Paths, count: int, workers: int = 1) -> None:
    """Render the first `count` tokenized shards again; those that exist are kept.

    Raises InvalidRequest when there are none.
    """
    folders = [f for f in list_shards(paths) if (f / "tokens.npz").exists()][:count]
    if not folders:
        raise InvalidRequest(f"No tokens under {paths.shards}: run `tokens` first.")
    missing = [f for f in folders if not (paths.aligned / f.name).exists()]
    in_processes(align_shard, [(paths, f) for f in missing], workers)


def phase_of(phasors: np.ndarray, skipped: int) -> Phase:
    """Phasors at the ends of an utterance's steps, of which `skipped` samples were cut before.

    Between them the phase goes evenly, and outside it goes on as it went last.
    """
    step = CODEC.hop // oscillator.STEPS
    turns = np.cumsum(np.angle(phasors[1:] / phasors[:-1])) / (2 * np.pi)
    known = np.angle(phasors[0]) / (2 * np.pi) + np.concatenate([[0.0], turns])
    at = skipped + step * np.arange(1, len(known) + 1)

    def phase(samples: np.ndarray) -> np.ndarray:
        out = np.interp(samples, at, known)
        first, last = (known[1] - known[0]) / step, (known[-1] - known[-2]) / step
        out += np.minimum(samples - at[0], 0) * first
        return out + np.maximum(samples - at[-1], 0) * last

    return phase


def align_shard(paths: Paths, folder: Path) -> None:
    """One shard, whole or not at all."""
    with whole(paths.aligned / folder.name) as part:
        part.mkdir()
        _align(paths, folder, part)
    log.info("shard %s: aligned", folder.name)


def _align(paths: Paths, folder: Path, out: Path) -> None:
    from synth.nano.teacher import Teacher

    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    books, teacher = Codebooks.load(paths.codebooks), Teacher()
    decoder = fresh_decoder(books)
    shard, tokens = open_shard(folder), np.load(folder / "tokens.npz")
    bounds = np.concatenate([[0], tokens["ends"]])
    first = int(folder.name) * SHARD
    lines = paths.corpus.read_text().splitlines()[first : first + SHARD]
    codes: list[np.ndarray] = []
    handed: list[np.ndarray] = []
    line = -1
    with open(out / "audio.i16", "wb") as audio, open(out / "harmonic.i16", "wb") as harmonic:
        for i, text in enumerate(shard.text):
            line = lines.index(text, line + 1)  # the shard lacks those that gave no speech
            seed, voice = SEED + first + line, VOICES[int(shard.voice[i])]
            mine = tokens["codes"][:, bounds[i] : bounds[i + 1]].astype(np.int64)
            entries = books.decode(torch.from_numpy(mine))
            phasors, hands = oscillator.phasors(decoder, entries)
            cut = teacher.speak(text, voice, seed)
            assert cut is not None
            speech = teacher.speak(text, voice, seed, phase_of(phasors.numpy(), cut.skipped))
            assert speech is not None and speech.harmonic is not None
            size = mine.shape[1] * CODEC.hop
            for file, x in ((audio, speech.audio), (harmonic, speech.harmonic)):
                file.write((x[:size] * 32767).astype("<i2").tobytes())
            codes.append(mine.astype(np.int16))
            handed.append(hands.numpy())
    np.savez(
        out / "index.npz",
        codes=np.concatenate([np.zeros((FINE.codebooks, 0), np.int16), *codes], 1),
        ends=tokens["ends"],
        handed=np.concatenate([np.zeros((0, 8), np.float32), *handed]),
    )
