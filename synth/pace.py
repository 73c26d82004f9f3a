"""How long a text takes to say, by its letters alone. Knows nothing of models.

Text is weighed in letters: one is what a letter of a Latin text takes, some 1/14 s at an even pace,
spaces and stops counted. A Chinese character takes three of them, a digit is a word.
"""

import re
import unicodedata
from collections.abc import Iterator

LETTERS_PER_S = 14.0
_SLOWEST_PER_S = 9.0  # a slow and solemn speaker
_HESITATION_S = 3.0  # before, between and after the words, where nothing is wrong yet

# Sounds, not words: a laugh takes a while however it is written.
CUE = re.compile(r"\[[^\[\]\n]{1,40}\]")
_CUE_WEIGHT = 20.0
# Music and singing last as long as they like.
_MUSIC = re.compile(r"[♩♪♫♬]|\[(?:music|singing|sings)\]", re.IGNORECASE)


def weights(text: str) -> Iterator[float]:
    """The weight of each character of `text`; a cue in brackets has its weight on the bracket."""
    cues = {match.start(): match.end() for match in CUE.finditer(text)}
    silent_until = 0
    for place, char in enumerate(text):
        if place in cues:
            silent_until = cues[place]
            yield _CUE_WEIGHT
        else:
            yield 0.0 if place < silent_until else _weight(char)


def weight(text: str) -> float:
    """How many letters' time the text takes."""
    return sum(weights(text))


def typical_s(text: str) -> float:
    """Seconds the text takes at an even pace."""
    return weight(text) / LETTERS_PER_S


def longest_s(text: str) -> float | None:
    """Seconds in which even a slow speaker is through with the text; None for music, which has no
    such limit. What goes on for longer is no longer the text.
    """
    return None if _MUSIC.search(text) else _HESITATION_S + weight(text) / _SLOWEST_PER_S


def is_plausible(text: str, seconds: float) -> bool:
    """Whether the text can have been said in that time: not in half of it, and not long after."""
    longest = longest_s(text)
    return typical_s(text) / 2.5 <= seconds and (longest is None or seconds <= longest)


def _weight(char: str) -> float:
    if char.isascii():  # by far the most
        return 4.0 if char.isdigit() else 6.0 if char in "%$&@#" else 1.0
    code = ord(char)
    if 0x3400 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF or code >= 0x20000:
        return 3.2  # an ideograph
    if 0x3040 <= code <= 0x30FF:
        return 1.9  # kana
    if 0xAC00 <= code <= 0xD7A3:
        return 2.8  # a Hangul syllable
    kind = unicodedata.category(char)
    if 0x0900 <= code <= 0x097F and kind[0] == "L":
        return 1.6  # Devanagari: a consonant carries its vowel
    if kind[0] == "M":
        return 0.3
    if kind == "Nd":
        return 4.0
    if kind == "Sc":
        return 6.0  # a currency
    return 5.0 if char in "…—–" else 1.0
