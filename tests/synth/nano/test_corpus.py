import json
import random
from pathlib import Path

import pytest

from synth.nano import corpus
from synth.nano.phrases import EASY, number_words, phrase
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
