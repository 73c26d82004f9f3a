"""Teacher speech and tokens on disk, a few thousand utterances a shard.

A shard is a folder: `audio.i16` and `base.i16` (24 kHz, end to end, memory-mapped), `speech.npz`
(offsets in samples, F0 per frame, voice index) and `text.json`; `tokens.npz` joins them later.
A shard appears under its name only when it is whole, so a run can stop anywhere and go on.
"""

import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from synth.errors import InvalidRequest
from synth.nano.files import whole
from synth.nano.recipe import CODEC, SEED, SHARD, VOICES, Paths

log = logging.getLogger(__name__)


@dataclass
class Shard:
    """The speech of one shard; waveforms are int16 views of files."""

    folder: Path
    text: list[str]
    voice: np.ndarray  # (n,) index into VOICES
    offsets: np.ndarray  # (n + 1,) samples
    f0: np.ndarray  # (frames,) Hz, 0 where unvoiced
    audio: np.ndarray
    base: np.ndarray

    def waveform(self, i: int, base: bool = False) -> np.ndarray:
        """Utterance `i`, float32."""
        source = self.base if base else self.audio
        return source[self.offsets[i] : self.offsets[i + 1]].astype(np.float32) / 32768

    def pitch(self, i: int) -> np.ndarray:
        """F0 of utterance `i` per codec frame, Hz."""
        return self.f0[self.offsets[i] // CODEC.hop : self.offsets[i + 1] // CODEC.hop]


def open_shard(folder: Path) -> Shard:
    """Open a whole shard; nothing is read before it is used."""
    speech = np.load(folder / "speech.npz")
    return Shard(
        folder=folder,
        text=json.loads((folder / "text.json").read_text()),
        voice=speech["voice"],
        offsets=speech["offsets"],
        f0=speech["f0"],
        audio=samples(folder / "audio.i16"),
        base=samples(folder / "base.i16"),
    )


def samples(file: Path) -> np.ndarray:
    """A file's int16 samples, memory-mapped; a shard in which nothing was said has none."""
    return np.memmap(file, "<i2", "r") if file.stat().st_size else np.zeros(0, "<i2")


def list_shards(paths: Paths) -> list[Path]:
    """Folders of the whole shards, in order."""
    return sorted(paths.shards.glob("[0-9]*"))


def speak_corpus(paths: Paths, workers: int = 1) -> None:
    """Have the teacher read the corpus, `workers` shards at a time; shards that exist are kept."""
    count = -(-len(paths.corpus.read_text().splitlines()) // SHARD)
    missing = [n for n in range(count) if not (paths.shards / f"{n:03d}").exists()]
    in_processes(speak_shard, [(paths, n) for n in missing], workers)


def speak_shard(paths: Paths, number: int) -> None:
    """One shard, whole or not at all."""
    from synth.nano.teacher import Teacher

    first = number * SHARD
    lines = paths.corpus.read_text().splitlines()[first : first + SHARD]
    with whole(paths.shards / f"{number:03d}") as part:
        part.mkdir()
        seconds = _speak(part, Teacher(), lines, first)
    log.info("shard %03d: %.2f h", number, seconds / 3600)


def in_processes(job: Callable[..., None], calls: list[tuple[Any, ...]], workers: int) -> None:
    """Run job(*call) for every call, `workers` at a time; the first failure ends it."""
    if workers <= 1:
        for call in calls:
            job(*call)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for done in [pool.submit(job, *call) for call in calls]:
            done.result()


def _speak(folder: Path, teacher, lines: list[str], first: int) -> float:
    offsets, text, voices, f0 = [0], [], [], []
    with open(folder / "audio.i16", "wb") as audio, open(folder / "base.i16", "wb") as base:
        for i, line in enumerate(lines, first):
            voice = i % len(VOICES)
            speech = teacher.speak(line, VOICES[voice], SEED + i)
            if speech is None or not 0.25 < len(speech.audio) / CODEC.sample_rate < 11.0:
                continue
            for file, x in ((audio, speech.audio), (base, speech.base)):
                file.write((x * 32767).astype("<i2").tobytes())
            offsets.append(offsets[-1] + len(speech.audio))
            text.append(line)
            voices.append(voice)
            f0.append(speech.f0)
    np.savez(
        folder / "speech.npz",
        offsets=np.array(offsets),
        voice=np.array(voices, np.int8),
        f0=np.concatenate([np.zeros(0, np.float32), *f0]),
    )
    (folder / "text.json").write_text(json.dumps(text))
    return offsets[-1] / CODEC.sample_rate


@dataclass
class Tokens:
    """Every tokenized utterance: `semantic[i]` (n,) and `codes[i]` (8, n), one voice each."""

    text: list[str]
    voice: np.ndarray
    semantic: list[np.ndarray]
    codes: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.text)


def load_tokens(paths: Paths) -> Tokens:
    """Tokens of every shard that has them.

    Raises InvalidRequest when none has.
    """
    text: list[str] = []
    voice: list[np.ndarray] = []
    semantic: list[np.ndarray] = []
    codes: list[np.ndarray] = []
    for folder in list_shards(paths):
        if not (folder / "tokens.npz").exists():
            continue
        held = np.load(folder / "tokens.npz")
        if not len(held["ends"]):
            continue
        ends = held["ends"][:-1]
        semantic += np.split(held["semantic"], ends)
        codes += np.split(held["codes"], ends, axis=1)
        voice.append(held["voice"])
        text += json.loads((folder / "text.json").read_text())
    if not text:
        raise InvalidRequest(f"No tokens under {paths.shards}: run `tokens` first.")
    return Tokens(text, np.concatenate(voice), semantic, codes)


def chunks(indices: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Consecutive pieces of at most `size`."""
    for start in range(0, len(indices), size):
        yield indices[start : start + size]
