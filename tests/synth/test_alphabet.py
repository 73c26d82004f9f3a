"""What a model has no letters for is left out and told, or refused where it is all there was."""

import string

import pytest

from synth.alphabet import require_speech, spell
from synth.errors import InvalidRequest
from synth.longform import Utterance

ENGLISH = frozenset(string.ascii_letters + string.digits + string.punctuation + "é♪")


def spelled(*texts: str, languages: tuple[str, ...] = ("en",)) -> tuple[list[str], tuple[str, ...]]:
    kept, notes = spell([Utterance(text) for text in texts], ENGLISH, languages)
    return [utterance.text for utterance in kept], notes


def test_words_of_another_script_are_counted_and_left_out() -> None:
    """They went without a word, or became a sound like none in the text."""
    kept, notes = spelled("Guten Abend... Привет! 你好")
    assert kept == ["Guten Abend..."]
    assert notes == (
        "This model speaks English only: 8 characters it has no letters for were left out.",
    )
    kept, notes = spelled("Hi, й", languages=("de", "en"))
    assert kept == ["Hi,"]
    assert notes == ("With this model, 1 character it has no letters for was left out.",)


def test_a_piece_of_nothing_else_goes_as_a_whole() -> None:
    kept, notes = spelled("Hello.", "Привет, как дела?", "Bye.")
    assert kept == ["Hello.", "Bye."] and "13 characters" in notes[0]


def test_what_is_known_is_as_it_was() -> None:
    for text in ("Hello,  you!", "...", "a\x00b\u202e"):
        assert spelled("Hello", text) == (["Hello", text], ())
    assert spell([Utterance("Привет")], frozenset()) == ((Utterance("Привет"),), ())


def test_a_picture_goes_quietly_and_takes_no_word_along() -> None:
    assert spelled("Hello😀 you 👍") == (["Hello you"], ())
    assert spelled("Cafe\u0301 😀") == (["Café"], ())


def test_a_text_of_nothing_else_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="speaks English only: write the text in English"):
        spelled("Привет, как дела?", "你好!")
    with pytest.raises(InvalidRequest, match="no letters for that text"):
        spelled("Привет", languages=("de", "en"))


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "is empty"), (" \n\u200b", "is empty"), ("😀", "add some words"), ("?!…", "add some")],
)
def test_signs_alone_are_no_speech(text: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=f"nothing to say: .*{says}"):
        require_speech(text)
    require_speech(f"{text} ♪")
