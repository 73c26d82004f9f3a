"""Texts into utterances: nothing is lost, all fits, and the cuts are where a reader pauses."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.longform import MOST, PAUSE_S, Cut, Utterance, language_of, split, split_for
from synth.pace import CUE, weight
from synth.protocol import Limits
from tests.synth.test_pace import SENTENCES

LANGUAGES = list(SENTENCES)
# What texts are made of, the awkward included.
PARTS = st.sampled_from(
    ["Hello", "world", "a", "Dr. Smith", "z. B.", "1,000.50", "10 000 €", "e.g.", "...", "—", "…"]
    + [
        "[laughs]",
        "[clears throat]",
        "♪ la, la. la ♪",
        "♪",
        "[",
        "]",
        "\n",
        "\n\n",
        "   ",
        "\u3000",
    ]
    + ["said.", "What?!", "so,", "(well)", "«Oui !»", "vrai ?", "x" * 40, "मैंने", "क्या।", "A. B."]
    + [
        "こんにちは。",
        "東京",
        "안녕하세요.",
        "e\u0301",
        "👩\u200d🚀",
        "\u200b",
        "\ud800",
        "3.14",
        "12:30",
    ]
)
TEXTS = st.lists(st.tuples(PARTS, st.sampled_from([" ", " ", " ", ""])), max_size=80).map(
    lambda parts: "".join(part + gap for part, gap in parts)
)


def solid(text: str) -> str:
    return "".join(text.encode("utf-8", "replace").decode().split())


def joined(pieces: tuple[Utterance, ...]) -> str:
    return solid("".join(piece.text for piece in pieces))


@given(
    TEXTS | st.text(max_size=300),
    st.sampled_from(LANGUAGES),
    st.sampled_from([40.0, 80.0, MOST]),
    st.sampled_from([1, 12, 256]),
)
def test_nothing_is_lost_and_every_piece_fits(
    text: str, language: str, most: float, most_characters: int
) -> None:
    pieces = split(text, language=language, most=most, most_characters=most_characters)
    assert joined(pieces) == solid(text)
    for piece in pieces:
        assert piece.text == " ".join(piece.text.split()) != ""
        assert len(piece.text) <= most_characters
        # A piece of one cue weighs what a cue weighs.
        assert weight(piece.text) <= most or len(solid(piece.text)) == 1 or CUE.search(piece.text)
    assert not pieces or pieces[-1].pause_s == 0.0


@given(TEXTS)
def test_what_belongs_together_is_not_cut(text: str) -> None:
    """Cues, lines of lyrics, numbers and abbreviations are whole in one piece."""
    kept = r"\[(?:laughs|clears throat)\]|1,000\.50|10 000 €|Dr\. Smith|e\.g\.|3\.14|12:30"
    spoken = "\n".join(piece.text for piece in split(text))
    text = " ".join(text.split())
    for wanted in set(re.findall(kept, text)):
        assert spoken.count(wanted) >= text.count(wanted)


@pytest.mark.parametrize("language", LANGUAGES)
def test_long_prose_is_cut_at_sentences_in_every_language(language: str) -> None:
    sentence = SENTENCES[language]
    gap = "" if language in ("ja", "zh") else " "
    pieces = split(gap.join([sentence] * 12), language=language)
    assert joined(pieces) == solid(sentence * 12)
    assert 4 <= len(pieces) <= 12
    for piece in pieces:
        assert piece.text.endswith(sentence[-1])
        assert piece.text.startswith(sentence[:5])
        assert 50 <= weight(piece.text) <= MOST
    assert {piece.pause_s for piece in pieces[:-1]} == {PAUSE_S[Cut.SENTENCE]}


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "Mr. and Mrs. Smith met Dr. No at 5 p.m. in St. Paul"),
        ("de", "Das ist z. B. am 3. Oktober bei Dr. Müller bzw. Frl. Schmidt"),
        ("fr", "Hier M. Dupont et Mme. Durand ont vu le Dr. Martin"),
        ("es", "El Sr. García y la Dra. López hablaron con D. Juan"),
        ("it", "Il Sig. Rossi e il Dott. Bianchi sono a S. Marino"),
        ("pt", "O Sr. Silva e a Dra. Costa moram na Av. Paulista"),
        ("pl", "Było to w 1999 r. w domu, ul. Długa, u św. Anny"),
        ("ru", "А. С. Пушкин жил на ул. Мойка в 1836 г. и писал"),
        ("tr", "Dün Doç. Yılmaz ile Av. Kaya geldi, bkz. Ankara"),
        ("hi", "कल डॉ. शर्मा और प्रो. वर्मा आए थे"),
    ],
)
def test_a_dot_of_an_abbreviation_ends_no_sentence(language: str, text: str) -> None:
    """A piece so tight that every sentence stands alone: this one stays whole."""
    before = "Ok. " if language != "hi" else "हाँ। "
    filler = " ".join([SENTENCES[language]] * 3)
    pieces = split(f"{filler} {before}{text}.", language=language, most=weight(text) + 32)
    assert any(text in piece.text for piece in pieces)


def test_a_clause_too_long_is_cut_between_words_and_a_word_between_letters() -> None:
    words = " ".join(["word"] * 60)
    pieces = split(words)
    assert joined(pieces) == solid(words)
    assert {piece.pause_s for piece in pieces} == {0.0}
    assert all(set(piece.text.split()) == {"word"} for piece in pieces)
    assert len(split("x" * 400)) == 3


def test_commas_are_taken_before_words() -> None:
    text = ", ".join(["this is a clause of some length"] * 10) + "."
    pieces = split(text)
    assert all(piece.text.endswith((",", ".")) for piece in pieces)
    assert {piece.pause_s for piece in pieces[:-1]} == {PAUSE_S[Cut.CLAUSE]}


def test_chinese_without_a_stop_is_cut_between_characters() -> None:
    pieces = split("我们走吧" * 60, language="zh")
    assert all(30 <= len(piece.text) <= 55 for piece in pieces)


def test_a_lyric_keeps_its_notes() -> None:
    lyric = "♪ In the jungle, the mighty jungle. The lion sleeps tonight ♪"
    pieces = split(f"{SENTENCES['en']} {lyric} {SENTENCES['en']} {lyric}")
    assert sum(piece.text.count(lyric) for piece in pieces) == 2 and len(pieces) > 1


def test_short_leftovers_join_their_neighbours() -> None:
    """A last "Yes." alone would be a piece that a model makes things up for."""
    pieces = split(" ".join([SENTENCES["en"]] * 2) + " Yes.")
    assert all(weight(piece.text) > 60 for piece in pieces)


def test_a_paragraph_has_the_longest_pause_and_a_short_text_is_one_piece() -> None:
    long = " ".join([SENTENCES["en"]] * 2)
    pieces = split(f"{long}\n\n{long}")
    assert [piece.pause_s for piece in pieces] == [PAUSE_S[Cut.PARAGRAPH], 0.0]
    assert split("Hello\n\n there. Bye.") == (Utterance("Hello there. Bye."),)
    assert split(" \n ") == ()


def test_the_letters_choose_the_rules_and_the_hint_what_they_leave_open() -> None:
    for language, sentence in SENTENCES.items():
        assert language_of(sentence, language) == language
    assert language_of("東京", "en") == "zh" and language_of("東京", "ja") == "ja"
    assert language_of("Hello", "ru") == language_of("Hello") == language_of("") == "en"
    assert language_of("Hello привет мир", "de") == "ru"


def test_a_smaller_model_gets_smaller_pieces() -> None:
    text = " ".join([SENTENCES["en"]] * 4)
    small = Limits(slots=1, text_tokens=100, utterance_s=15.4)
    quick = Limits(slots=1, text_tokens=256, utterance_s=7.7)
    assert all(len(piece.text) <= 100 for piece in split_for(text, small))
    assert all(weight(piece.text) <= MOST / 2 for piece in split_for(text, quick))
