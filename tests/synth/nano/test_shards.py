import sys
import types
from pathlib import Path

import numpy as np
import pytest

from synth.nano import shards
from synth.nano.recipe import CODEC, VOICES, Paths, Voice
from synth.nano.shards import list_shards, open_shard, speak_corpus
from tests.synth.nano.signals import voiced, write_shard


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


def test_a_shard_is_read_as_it_was_written(tmp_path: Path):
    shard = open_shard(write_shard(Paths(tmp_path), 5))
    assert len(shard.text) == 5
    lengths = [len(shard.waveform(i)) for i in range(5)]
    assert lengths == list(np.diff(shard.offsets))
    assert all(len(shard.pitch(i)) * CODEC.hop == n for i, n in enumerate(lengths))
    assert abs(float(np.sqrt(np.mean(shard.waveform(2) ** 2))) - 0.1) < 0.01
