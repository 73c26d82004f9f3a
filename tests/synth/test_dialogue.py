"""Dialogues: what is one and what is not, who says what, and with which voice."""

import pytest

from synth.dialogue import (
    SPEAKER_PAUSE_S,
    Turn,
    complete_cast,
    parse_cast,
    turns_of,
    utterances_of,
)
from synth.errors import InvalidRequest
from synth.longform import Utterance
from synth.protocol import Gender, Limits, VoiceInfo

LIMITS = Limits(slots=1, text_tokens=256, utterance_s=15.4)


def test_two_lines_with_names_are_a_dialogue() -> None:
    text = "Alice: Did you hear that?\nBob: [gasps] I did.\nIt came from outside.\nAlice: Let's go!"
    assert turns_of(text) == (
        Turn("Alice", "Did you hear that?"),
        Turn("Bob", "[gasps] I did.\nIt came from outside."),
        Turn("Alice", "Let's go!"),
    )


@pytest.mark.parametrize(
    "text",
    [
        "Note: hello",
        "Hello there.\nNote: this is speech.",
        "He came at 12:30.\nShe left at 13:45.",
        "see https://example.com\nand http://example.org",
        "нам нужно: молоко\nи ещё: хлеб",
        "we need: milk\nand also: bread",
        "One thing: it rains. Nothing more.",
        "Remember what he said: no. And what she said: yes.",
        "",
    ],
)
def test_what_is_no_dialogue(text: str) -> None:
    assert turns_of(text) == ()


@pytest.mark.parametrize(
    ("text", "speakers"),
    [
        ("Dr. No: Welcome.\nMr. Bond: Thank you.", ["Dr. No", "Mr. Bond"]),
        ("Алиса: Привет!\nБоб: Привет.", ["Алиса", "Боб"]),
        ("太郎：こんにちは。\n花子：元気？", ["太郎", "花子"]),
        ("MAN: Hi.\nWOMAN: Hi!", ["MAN", "WOMAN"]),
        ("Alice: Hi there. Bob: Hello! Alice: Bye.", ["Alice", "Bob", "Alice"]),
        ("राम: नमस्ते।\nसीता: नमस्ते!", ["राम", "सीता"]),
    ],
)
def test_names_of_many_kinds(text: str, speakers: list[str]) -> None:
    assert [turn.speaker for turn in turns_of(text)] == speakers


def test_a_cast_makes_one_name_enough_and_finds_it_in_the_middle_of_a_line() -> None:
    assert turns_of("Once upon a time alice: hello", ["Alice"]) == (
        Turn("", "Once upon a time"),
        Turn("Alice", "hello"),
    )
    assert turns_of("Nobody here", ["Alice"]) == ()
    assert [t.speaker for t in turns_of("Alice: Hi.\nBob: Hm.", ["Alice"])] == ["Alice", "Bob"]


def test_speakers_are_half_a_second_apart() -> None:
    long = " ".join(["The birds begin to sing before anybody is awake, and nobody minds."] * 4)
    utterances = utterances_of(f"A: {long}\nB: Yes.\nB: No.\nA: Bye.", LIMITS)
    assert [each.speaker for each in utterances] == ["A", "A", "B", "B", "A"]
    assert [each.pause_s for each in utterances] == [0.25, 0.5, 0.0, SPEAKER_PAUSE_S, 0.0]
    assert utterances_of("Hello.", LIMITS) == (Utterance("Hello."),)
    assert utterances_of(" ", LIMITS) == ()


def test_a_cast_as_people_write_it() -> None:
    assert parse_cast(["Alice=v2/en_speaker_9", "Bob = a.npz, Old Man=x ,"]) == {
        "Alice": "v2/en_speaker_9",
        "Bob": "a.npz",
        "Old Man": "x",
    }
    for wrong in ("Alice", "Alice=", "=v2/en_speaker_9"):
        with pytest.raises(InvalidRequest, match="NAME=VOICE"):
            parse_cast([wrong])
    with pytest.raises(InvalidRequest, match="twice"):
        parse_cast(["Al=a,al=b"])


def voice(name: str, language: str, gender: Gender, version: str = "v2") -> VoiceInfo:
    return VoiceInfo(name, language, version, gender, 5.0)


def test_who_has_no_voice_gets_one_of_the_language_by_turn_and_none_twice() -> None:
    voices = [
        voice("de1", "de", Gender.MALE),
        voice("m1", "en", Gender.MALE),
        voice("m2", "en", Gender.MALE),
        voice("f1", "en", Gender.FEMALE),
        voice("old", "en", Gender.FEMALE, "v1"),
    ]
    utterances = [Utterance("Hi.", 0.0, speaker) for speaker in ("A", "B", "A", "C", "D", "")]
    assert complete_cast(utterances, {}, voices, "en") == {
        "A": "f1",
        "B": "m1",
        "C": "m2",
        "D": "m1",
    }
    given = {"B": "f1", "Nobody": "x"}
    assert complete_cast(utterances[:3], given, voices, "en") == {"B": "f1", "A": "m1"}
    assert complete_cast(utterances[:2], {}, voices, "pl") == {"A": "f1", "B": "de1"}
    assert complete_cast(utterances[:2], {}, [], "en") == {}
    crowd = [Utterance("Hi.", 0.0, str(n)) for n in range(11)]
    with pytest.raises(InvalidRequest, match="11 speakers"):
        complete_cast(crowd, {}, voices, "en")
