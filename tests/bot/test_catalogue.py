"""Voices as people look for them."""

import difflib

import pytest

from bot.catalogue import Catalogue, label
from synth.protocol import Gender, VoiceInfo

VOICES = [
    VoiceInfo(f"v2/{language}_speaker_{number}", language, "v2", gender, 5.0)
    for language in ("de", "en")
    for number, gender in enumerate((Gender.MALE, Gender.FEMALE))
]


def names(query: str, locale: str = "") -> list[str]:
    return [voice.name for voice in Catalogue(VOICES).search(query, locale=locale)]


def test_the_readers_own_language_comes_first() -> None:
    assert names("", locale="en-US")[0] == "v2/en_speaker_0"
    assert names("", locale="de")[0] == "v2/de_speaker_0"


def test_words_are_found_in_names_and_facts_and_guessed_at_last() -> None:
    assert names("english male") == ["v2/en_speaker_0"]
    assert names("speaker_1 german") == ["v2/de_speaker_1"]
    assert set(names("femal")) == {"v2/de_speaker_1", "v2/en_speaker_1"}
    assert set(names("germna")) == {"v2/de_speaker_0", "v2/de_speaker_1"}
    assert names("quite another thing") == []


def test_a_label_fits_discords_lists() -> None:
    long = VoiceInfo("x" * 150, "en", "v2", Gender.MALE, 5.0)
    assert len(label(long)) == 100
    assert label(VOICES[0]) == "v2/de_speaker_0 (German, male)"


def test_a_query_of_any_length_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Discord sends up to 6,000 characters at each key, and all of them were compared with every
    voice on the event loop.
    """
    compared = list[int]()
    matcher = difflib.SequenceMatcher

    def counted(junk: None, a: str = "", b: str = "") -> difflib.SequenceMatcher[str]:
        compared.append(len(a) + len(b))
        return matcher(junk, a, b)

    monkeypatch.setattr(difflib, "SequenceMatcher", counted)
    catalogue = Catalogue(VOICES)
    assert catalogue.search("zq " * 2000) == []
    assert 0 < sum(compared) < 10_000
