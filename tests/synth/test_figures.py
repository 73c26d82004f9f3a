"""Numbers as English words."""

import pytest

from synth.figures import in_words, number_words
from synth.longform import split_for
from synth.protocol import Limits


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It costs $25.", "It costs twenty five dollars."),
        ("$1, £1.01 or €2.50?",
         "one dollar, one pound and one penny or two euros and fifty cents?"),
        ("$3.5 million", "three point five million dollars"),
        ("$1,250.75 now", "one thousand two hundred fifty dollars and seventy five cents now"),
        ("at 7:30, 8:00 or 9:05pm", "at seven thirty, eight or nine oh five pm"),
        ("at 7pm", "at seven pm"),
        ("50 % and 3.05%", "fifty percent and three point zero five percent"),
        ("the 1st, 22nd, 30th", "the first, twenty second, thirtieth"),
        ("Call 555-0123.", "Call five five five zero one two three."),
        ("in 1999, 2008, 2026, 1500", "in nineteen ninety nine, two thousand eight, "
         "twenty twenty six, fifteen hundred"),
        ("3,450 and 1,000,000", "three thousand four hundred fifty and one million"),
        ("318 of 12", "three hundred eighteen of twelve"),
        ("code 0042 and 12345678",
         "code zero zero four two and one two three four five six seven eight"),
        ("We're #5, 3-4!", "We're number five, three-four!"),
        ("v2 is 5km", "v two is five km"),
        ("[music 3] No figures.", "[music 3] No figures."),
    ],
)  # fmt: skip
def test_numbers_become_words_and_the_rest_stays(text: str, words: str) -> None:
    assert in_words(text) == words


def test_large_numbers() -> None:
    assert number_words(999_999_999_999).startswith("nine hundred ninety nine billion")


def test_a_model_says_what_it_reads() -> None:
    """Before the text is cut: words are longer than figures."""
    text = "We sold 1,234,567 of them. " * 3
    figures = split_for(text, Limits(slots=1, text_tokens=128, utterance_s=11.0))
    words = split_for(text, Limits(slots=1, text_tokens=128, utterance_s=11.0, figures=False))
    assert "1,234,567" in figures[0].text
    assert all("one million two hundred" in piece.text for piece in words)
    assert len(words) > len(figures) and all(len(piece.text) <= 128 for piece in words)
