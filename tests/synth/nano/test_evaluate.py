"""What can be judged without the judges' own wheels: comparing words, pitch, the table."""

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the judges' extra is not installed")

from synth.nano import corpus
from synth.nano import evaluate as evaluation
from synth.nano.evaluate import _ROWS, Clip, held_out, table
from synth.nano.judges import distance, median_pitch, word_errors, words
from synth.nano.phrases import EASY
from synth.nano.recipe import Paths, Voice
from tests.synth.nano.signals import voiced

_WORDNET = Path("/usr/share/wordnet")


@pytest.mark.parametrize("f0", [95.0, 140.0, 190.0, 245.0])
def test_median_pitch_of_a_voice(f0: float):
    assert abs(12 * np.log2(median_pitch(voiced(80, f0, 3)) / f0)) < 0.3


def test_noise_has_no_pitch():
    noise = np.random.default_rng(0).standard_normal(48_000).astype(np.float32)
    assert median_pitch(0.1 * noise) == 0


def test_words_are_compared_as_they_sound():
    assert words("It costs 25 dollars, [laughs] OK?") == "it costs twenty five dollars ok".split()
    assert words("1,250 well-known") == "one thousand two hundred fifty well known".split()


def test_word_errors():
    assert distance("a b c d".split(), "a x c".split()) == 2
    assert word_errors(["one two three four"], ["one two three four"]) == 0
    assert word_errors(["one two", "three four"], ["one two", "three"]) == 0.25
    assert word_errors(["one two"], ["a b c d e f g h"]) == 2  # a ramble counts twice at most


def test_table_shows_every_figure():
    figures = {key: 0.125 for _, key, *_ in _ROWS}
    lines = table(figures).splitlines()
    assert len(lines) == 2 + len(_ROWS)
    assert "| 12.5% | 12.0% | 7.0% |" in lines[2]


class _Mute:
    """Stands for a model that has nothing to say."""

    def __init__(self, folder: Path, sampling: dict[str, float], precision: str = "fp32") -> None:
        self.folder, self.sampling = folder, sampling

    def say(self, text: str, voice: str | None, seed: int) -> Clip | None:
        return None


class _Talker(_Mute):
    """Says every sentence but the easy ones, of which it has nothing to say."""

    def say(self, text: str, voice: str | None, seed: int) -> Clip | None:
        if text in EASY:
            return None
        return Clip(text, voice or "", seed, voiced(50, 190.0, seed), np.zeros((8, 50)), 0.5)

    def with_two_books(self, clip: Clip) -> np.ndarray:
        return clip.audio


class _Judges:
    def whisper(self, audio: np.ndarray) -> str:
        return ""

    sphinx = whisper

    def rating(self, audio: np.ndarray) -> float:
        return 2.5

    def speaker(self, audio: np.ndarray) -> np.ndarray:
        return np.ones(4) / 2


class _Teacher:
    def speak(self, text: str, voice: Voice, seed: int) -> types.SimpleNamespace:
        return types.SimpleNamespace(audio=voiced(50, 190.0 * voice.pitch, seed))


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    module = types.ModuleType("synth.nano.teacher")
    module.Teacher = _Teacher  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "synth.nano.teacher", module)
    monkeypatch.setattr(evaluation, "Judges", _Judges)
    monkeypatch.setattr(evaluation, "int8_limit", lambda: None)
    return monkeypatch


def test_a_model_that_says_nothing_has_a_table(replaced: pytest.MonkeyPatch, tmp_path: Path):
    """It used to end in numpy's errors: a mean of no ratings, no clips to join."""
    replaced.setattr(evaluation, "Speaker", _Mute)
    figures = evaluation.evaluate(Paths(tmp_path), tmp_path, seeds=1, easy=3, rare=2)
    assert figures["wer_easy_whisper"] == figures["wer_rare_sphinx"] == 1
    assert not figures.keys() & {"mos", "mos_two_books", "tails", "rtf", "speaker_right"}
    assert "| DistillMOS |  | 2.00 | 3.20 |" in table(figures)


def test_every_sentence_is_heard_with_every_seed(replaced: pytest.MonkeyPatch, tmp_path: Path):
    """Rarer words were asked of one seed, whose figure moves by two points by itself."""
    replaced.setattr(evaluation, "Speaker", _Talker)
    heard: list[list[str]] = []
    replaced.setattr(evaluation, "word_errors", lambda said, _: heard.append(said) or 0.0)
    figures = evaluation.evaluate(Paths(tmp_path), tmp_path, seeds=3, easy=2, rare=2)
    assert [len(said) for said in heard] == [6, 2, 6, 2]  # Whisper's and PocketSphinx's of each
    assert figures["mos"] == 2.5
    assert figures["rtf"] == pytest.approx(0.5)
    assert 0 < figures["pitch_right"] < 1  # one pitch, voices in turn


def test_sentences_held_out_are_in_the_package(tmp_path: Path):
    """Only `data`, an hour of teacher's speech, used to write the list."""
    held = held_out(Paths(tmp_path / "nothing"))
    assert held["easy"] == EASY
    assert len(set(held["rare"])) == 80
    assert sum(len(words(text)) for text in held["rare"]) == 625
    assert "WordNet 3.0 Copyright 2006 by Princeton University." in " ".join(held["notice"])


def test_a_run_with_a_corpus_has_its_own(tmp_path: Path):
    paths = Paths(tmp_path)
    paths.heldout.write_text(json.dumps({"easy": ["One."], "rare": []}))
    assert held_out(paths)["easy"] == ["One."]


@pytest.mark.slow
@pytest.mark.skipif(not _WORDNET.is_dir(), reason="needs Debian's wordnet-base")
def test_the_corpus_leaves_out_just_the_package_s_sentences(tmp_path: Path):
    paths = Paths(tmp_path / "run")
    corpus.write_corpus(paths, _WORDNET, 10)
    written = json.loads(paths.heldout.read_text())
    shipped = held_out(Paths(tmp_path / "nothing"))
    assert written["easy"] == shipped["easy"]
    assert written["rare"] == shipped["rare"]
