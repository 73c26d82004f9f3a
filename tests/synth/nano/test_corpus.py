import json
import random
import re
from pathlib import Path

import pytest

from synth.figures import number_words
from synth.nano import corpus, numerals
from synth.nano.phrases import EASY, phrase
from synth.nano.recipe import TEXT, Paths
from synth.nano.spelling import spell

NOUNS = "apple brick candle dragon engine feather garden hammer island jacket".split()


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    """A folder in WordNet's format with a few hundred example sentences."""
    folder = tmp_path / "dict"
    folder.mkdir()
    for part in ("noun", "verb", "adj", "adv"):
        lines = ["  1 This line is the licence."]
        for i, a in enumerate(NOUNS):
            for j, b in enumerate(NOUNS):
                rare = f"{part}{a}{b}ish"
                lines.append(
                    f"0000 03 n 01 {a} 0 000 | the {a} (of a kind) near {b}; "
                    f'"she {part} put the {rare} {a} beside the {b}"; "{i} {j}"'
                )
        (folder / f"data.{part}").write_text("\n".join(lines))
    return folder


def test_reads_examples_and_definitions(wordnet: Path):
    examples, glosses = corpus.wordnet(wordnet)
    assert "She noun put the nounapplebrickish apple beside the brick." in examples
    assert "The apple near brick." in glosses
    assert not any("licence" in text for text in examples + glosses)


def test_held_out_sentences_stay_out(wordnet: Path, tmp_path: Path):
    paths = Paths(tmp_path / "run")
    assert corpus.write_corpus(paths, wordnet, 900) == 900
    lines = paths.corpus.read_text().splitlines()
    held = json.loads(paths.heldout.read_text())
    assert len(held["easy"]) == 40
    assert len(held["rare"]) == 80
    known = {corpus._key(line) for line in lines}
    assert not known & {corpus._key(t) for t in (*held["easy"], *held["rare"])}
    assert max(len(spell(line)) for line in lines) <= TEXT.block
    assert any(line.startswith("[") or line.endswith("]") for line in lines)


def test_lines_that_differ_in_a_figure_are_two_lines(wordnet: Path, tmp_path: Path):
    """Figures were no part of the key: of all sentences "It costs 25 dollars." one was kept."""
    assert corpus._key("It costs 25 dollars.") != corpus._key("It costs 36 dollars.")
    assert corpus._key("It's 7:30!") == corpus._key("It’s 7:30.")
    paths = Paths(tmp_path / "run")
    corpus.write_corpus(paths, wordnet, 1500, digits=0.9)
    lines = paths.corpus.read_text().splitlines()
    costs = [line for line in lines if re.fullmatch(r"It costs \d+ dollars\.", line)]
    assert len(costs) == len(set(costs)) > 5
    assert 0.8 < sum(bool(re.search(r"\d", line)) for line in lines) / len(lines) < 0.97


def test_figures_change_no_held_out_sentence(wordnet: Path, tmp_path: Path):
    few, many = Paths(tmp_path / "few"), Paths(tmp_path / "many")
    corpus.write_corpus(few, wordnet, 300, digits=0.0)
    corpus.write_corpus(many, wordnet, 300, digits=0.9)
    assert few.heldout.read_text() == many.heldout.read_text()
    held = {corpus._key(text) for text in numerals.HELD_OUT}
    assert not held & {corpus._key(line) for line in many.corpus.read_text().splitlines()}


def test_a_corpus_is_written_whole_or_not_at_all(
    wordnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It was written in place: `data` took a cut one for the whole and went on from it."""

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    paths = Paths(tmp_path / "run")
    monkeypatch.setattr(corpus.os, "replace", fail)
    with pytest.raises(OSError, match="disk is full"):
        corpus.write_corpus(paths, wordnet, 300)
    assert not paths.corpus.exists()


def test_is_the_same_corpus_each_time(wordnet: Path, tmp_path: Path):
    first, second = Paths(tmp_path / "a"), Paths(tmp_path / "b")
    corpus.write_corpus(first, wordnet, 300)
    corpus.write_corpus(second, wordnet, 300)
    assert first.corpus.read_text() == second.corpus.read_text()


@pytest.mark.parametrize(
    ("n", "words"),
    [(0, "zero"), (14, "fourteen"), (40, "forty"), (99, "ninety nine"), (600, "six hundred")]
    + [(2362, "two thousand three hundred sixty two"), (100_001, "one hundred thousand one")],
)
def test_number_words(n: int, words: str):
    assert number_words(n) == words


def test_grammar_never_says_a_held_out_sentence():
    rng = random.Random(5)
    held = {corpus._key(text) for text in EASY}
    assert not {corpus._key(phrase(rng)) for _ in range(3000)} & held
