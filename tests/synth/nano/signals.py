"""Speech-like signals and a corpus of them, made without a teacher."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synth.nano import oscillator
from synth.nano.aligned import fresh_decoder
from synth.nano.codebooks import Codebooks, Refiner
from synth.nano.features import BANDS, Scaler
from synth.nano.recipe import CODEC, FINE, VOICES, Paths
from synth.nano.shards import open_shard

TEXTS = ("Hello there, friend.", "What is that?", "One more time, please.", "Good night.")


def voiced(frames: int, f0: float, seed: int) -> np.ndarray:
    """Harmonics under a moving envelope, with a little noise: (frames * hop,) float32."""
    rng = np.random.default_rng(seed)
    t = np.arange(frames * CODEC.hop) / CODEC.sample_rate
    sway = 1 + 0.02 * np.sin(2 * np.pi * 3 * t)
    phase = 2 * np.pi * f0 * np.cumsum(sway) / CODEC.sample_rate
    formant = 700 + 400 * np.sin(2 * np.pi * 1.5 * t + seed)
    wave = sum(np.exp(-(((h * f0 - formant) / 600) ** 2)) * np.sin(h * phase) for h in range(1, 20))
    wave = wave + 0.01 * rng.standard_normal(len(t))
    return (0.1 * wave / np.sqrt(np.mean(wave**2))).astype(np.float32)


def write_shard(paths: Paths, count: int, number: int = 0, frames: int = 70) -> Path:
    """A spoken shard of `count` utterances, voices in turn."""
    folder = paths.shards / f"{number:03d}"
    folder.mkdir(parents=True)
    offsets, f0, audio = [0], [], []
    for i in range(count):
        pitch = 120.0 * VOICES[i % len(VOICES)].pitch * 1.5
        length = frames + 5 * (i % 3)
        audio.append(voiced(length, pitch, i))
        f0.append(np.full(length, pitch, np.float32))
        offsets.append(offsets[-1] + len(audio[-1]))
    samples = (np.concatenate(audio) * 32767).astype("<i2").tobytes()
    (folder / "audio.i16").write_bytes(samples)
    (folder / "base.i16").write_bytes(samples)
    voice = np.arange(count, dtype=np.int8) % len(VOICES)
    np.savez(folder / "speech.npz", offsets=offsets, voice=voice, f0=np.concatenate(f0))
    texts = [TEXTS[i % len(TEXTS)] for i in range(count)]
    (folder / "text.json").write_text(json.dumps(texts))
    return folder


def codebooks() -> Codebooks:
    """Random ones, with a scaler of ordinary voices."""
    size = (FINE.codebooks, CODEC.codebook_size, CODEC.dimension)
    rows = torch.randn(size, generator=torch.Generator().manual_seed(0))
    scaler = Scaler(torch.zeros(BANDS), 1.0, 7.25, 0.55, 0.7)
    return Codebooks(rows, scaler, Refiner().eval())


def write_aligned(paths: Paths, folder: Path, books: Codebooks | None = None) -> dict[str, Any]:
    """A shard as if its teacher had followed the oscillator; returns its index."""
    books = books or codebooks()
    shard, decoder = open_shard(folder), fresh_decoder(books)
    codes, handed, ends = [], [], [0]
    for i in range(len(shard.text)):
        mine = books.encode(books.features(shard.waveform(i), shard.pitch(i)))
        codes.append(mine.numpy().astype(np.int16))
        handed.append(oscillator.phasors(decoder, books.decode(mine))[1].numpy())
        ends.append(ends[-1] + mine.shape[1])
    out = paths.aligned / folder.name
    out.mkdir(parents=True)
    for name in ("audio.i16", "harmonic.i16"):
        (out / name).write_bytes((folder / "audio.i16").read_bytes())
    index = {
        "codes": np.concatenate(codes, 1),
        "ends": np.array(ends[1:]),
        "handed": np.concatenate(handed),
    }
    np.savez(out / "index.npz", allow_pickle=False, **index)
    return index
