import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from synth.nano import shards
from synth.nano.aligned import align_shard
from synth.nano.recipe import CODEC, VOICES, Paths, Voice
from synth.nano.shards import Shard, list_shards, load_tokens, open_shard, speak_corpus
from synth.nano.tokens import tokenize_shards
from synth.nano.units import Units
from tests.synth.nano.signals import codebooks, voiced, write_shard


class Hummer:
    """Reads a text of n characters as n frames of humming, and refuses empty-sounding ones."""

    def speak(self, text: str, voice: Voice, seed: int) -> types.SimpleNamespace | None:
        if "?" in text:
            return None
        n = len(text)
        f0 = 180.0 * voice.pitch
        audio = voiced(n, f0, seed)
        return types.SimpleNamespace(audio=audio, base=audio, f0=np.full(n, f0, np.float32))


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("synth.nano.teacher")
    module.Teacher = Hummer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "synth.nano.teacher", module)
    monkeypatch.setattr(shards, "SHARD", 3)


@pytest.mark.usefixtures("teacher")
def test_speaks_what_is_missing(tmp_path: Path):
    paths = Paths(tmp_path)
    lines = [f"A sentence of some length, number {i}." for i in range(8)]
    lines[4] = "Is this one refused?"
    paths.corpus.write_text("\n".join(lines) + "\n")
    (paths.shards / "part-002").mkdir(parents=True)  # what a killed run leaves
    speak_corpus(paths)
    assert [folder.name for folder in list_shards(paths)] == ["000", "001", "002"]
    before = (paths.shards / "000" / "audio.i16").stat().st_mtime_ns
    speak_corpus(paths)
    assert (paths.shards / "000" / "audio.i16").stat().st_mtime_ns == before
    second = open_shard(paths.shards / "001")
    assert second.text == [lines[3], lines[5]]
    assert list(second.voice) == [3, 1]  # a refused line does not shift the voices
    assert len(second.waveform(1)) == len(lines[5]) * CODEC.hop
    assert second.pitch(1)[0] == pytest.approx(180 * VOICES[1].pitch, rel=1e-3)


@pytest.mark.usefixtures("teacher")
def test_a_shard_in_which_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The last lines of a corpus may all be refused; numpy had nothing to join or to map."""
    paths = Paths(tmp_path)
    lines = ["This is the first.", "And another one.", "Here is a third.", "Refused?"]
    paths.corpus.write_text("\n".join(lines) + "\n")
    speak_corpus(paths)
    assert open_shard(paths.shards / "001").text == []
    codebooks().save(paths.codebooks)
    Units(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1)).save(paths.units)
    monkeypatch.setattr("synth.nano.units.Encoder", lambda: None)
    monkeypatch.setattr("synth.nano.units.tokenize", _zeros)
    tokenize_shards(paths)
    tokens = load_tokens(paths)
    assert tokens.text == lines[:3]
    assert [len(t) for t in tokens.semantic] == [len(line) for line in lines[:3]]
    align_shard(paths, paths.shards / "001")
    assert (paths.aligned / "001" / "index.npz").exists()


def _zeros(units: Units, encoder: None, shard: Shard) -> list[np.ndarray]:
    return [np.zeros(len(shard.pitch(i)), np.int16) for i in range(len(shard.text))]


def test_a_shard_is_read_as_it_was_written(tmp_path: Path):
    shard = open_shard(write_shard(Paths(tmp_path), 5))
    assert len(shard.text) == 5
    lengths = [len(shard.waveform(i)) for i in range(5)]
    assert lengths == list(np.diff(shard.offsets))
    assert all(len(shard.pitch(i)) * CODEC.hop == n for i, n in enumerate(lengths))
    assert abs(float(np.sqrt(np.mean(shard.waveform(2) ** 2))) - 0.1) < 0.01
