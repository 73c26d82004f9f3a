"""What can be judged without the judges' own wheels: comparing words, pitch, the table."""

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the judges' extra is not installed")

from synth.nano.evaluate import _ROWS, table
from synth.nano.judges import distance, median_pitch, word_errors, words
from tests.synth.nano.signals import voiced


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
