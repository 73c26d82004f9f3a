"""A long text -> utterances: pieces that fit one window of the model, cut where a speaker pauses.

Sentence ends are found by the sentencex package; what lies below a sentence, how pieces are packed,
and what must stay together is decided here. Of all ways to cut a text, the one is taken whose cuts
are the least audible and whose pieces are neither tiny nor full to the brim. Knows nothing of
models, voices or sound.
"""

import math
import re
import unicodedata
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate

import sentencex

from synth.figures import in_words
from synth.pace import CUE, weights
from synth.protocol import Limits

# Letters (`synth.pace`) in a piece. Fewer than the least, and the model finds little to hold on to;
# more than the most, and a slow voice does not get through within the window of 15.4 s.
LEAST = 100.0
MOST = 175.0
_WINDOW_S = 15.4

Fits = Callable[[int, int], bool]


class Cut(IntEnum):
    """What a piece ends at, from the least to the most audible place for a cut."""

    PARAGRAPH = 0
    SENTENCE = 1
    CLAUSE = 2
    WORD = 3
    LETTER = 4  # within a word that is longer than a piece may be


# Seconds of silence after a piece; its own last breath comes on top. A cut between two words is to
# be heard as little as possible.
PAUSE_S = {Cut.PARAGRAPH: 0.6, Cut.SENTENCE: 0.25, Cut.CLAUSE: 0.12, Cut.WORD: 0.0, Cut.LETTER: 0.0}

_COST = {Cut.PARAGRAPH: 0.0, Cut.SENTENCE: 0.1, Cut.CLAUSE: 1.0, Cut.WORD: 4.0, Cut.LETTER: 20.0}
_SHORT_COST = 0.8  # of a piece with next to nothing in it
_MUTE_COST = 30.0  # of a piece of stops and dashes only, which a model answers with anything
_ACROSS_COST = 0.3  # of a paragraph's end inside a piece, where its pause is lost


@dataclass(frozen=True)
class Utterance:
    """A piece of a text, white space collapsed; `pause_s`: of silence after it; `speaker`: who says
    it in a dialogue, or "".
    """

    text: str
    pause_s: float = 0.0
    speaker: str = ""


def split(
    text: str, *, language: str = "", most: float = MOST, most_characters: int = 256
) -> tuple[Utterance, ...]:
    """Cut a text into utterances; put together they are the text, but for white space.

    language: a code such as "de", where the letters leave a choice. most: letters (`synth.pace`) a
    piece may weigh; most_characters: how many it may have, so that its word pieces, none shorter
    than a character, fit the model's text block. A cue in brackets, a line of lyrics between two ♪,
    a number and an abbreviation are not cut, unless one alone is longer than a piece.
    Returns () for a text of white space only.
    """
    text = text.encode("utf-8", "replace").decode("utf-8")  # JSON can carry half a character
    most, most_characters = max(most, 30.0), max(1, most_characters)  # a cue must fit
    mass = [0.0, *accumulate(weights(text))]
    cuts = _cuts(text, language_of(text, language))

    def fits(start: int, end: int) -> bool:
        few = end - start <= most_characters
        return end - start <= 1 or (few and mass[end] - mass[start] <= most)

    _refine(text, cuts, fits)
    places = _best(text, mass, cuts, fits, least=most * LEAST / MOST)
    pieces = []
    for start, end in zip(places, places[1:], strict=False):
        if words := " ".join(text[start:end].split()):
            pieces.append(Utterance(words, PAUSE_S[cuts[end]]))
    if pieces:
        pieces[-1] = Utterance(pieces[-1].text)
    return tuple(pieces)


def has_speech(text: str) -> bool:
    """Whether anything in the text is said or sung: not so of stops, dashes and pictures."""
    return any(char.isalnum() or char in "♩♪♫♬" for char in text)


def split_for(text: str, limits: Limits, language: str = "") -> tuple[Utterance, ...]:
    """The same with the numbers that follow from a worker's limits, and what it cannot read put
    into words before.
    """
    if not limits.figures:
        text = in_words(text)
    most = MOST * min(1.0, limits.utterance_s / _WINDOW_S)
    return split(text, language=language, most=most, most_characters=limits.text_tokens)


def language_of(text: str, hint: str = "") -> str:
    """The language whose rules fit the text's letters: `hint`, unless the script rules it out."""
    counts = dict.fromkeys(("latin", "cyrillic", "devanagari", "kana", "hangul", "han"), 0)
    for char in text:
        code = ord(char)
        if 0x3040 <= code <= 0x30FF:
            counts["kana"] += 1
        elif 0xAC00 <= code <= 0xD7A3:
            counts["hangul"] += 1
        elif 0x3400 <= code <= 0x9FFF:
            counts["han"] += 1
        elif 0x0900 <= code <= 0x097F:
            counts["devanagari"] += 1
        elif 0x0400 <= code <= 0x04FF:
            counts["cyrillic"] += 1
        elif char.isalpha():
            counts["latin"] += 1
    script = max(counts, key=lambda name: counts[name])
    if script in ("kana", "han"):
        return "ja" if counts["kana"] else hint if hint in ("zh", "ja") else "zh"
    if script in ("hangul", "cyrillic", "devanagari"):
        return {"hangul": "ko", "cyrillic": "ru", "devanagari": "hi"}[script]
    return "en" if hint in ("", "ja", "zh", "ko", "ru", "hi") else hint


# -- Where a text may be cut ----------------------------------------------------------------------

_CLOSING = r"[\"'”’»)\]）」』】》〉]*"
_CLAUSE_END = re.compile(
    rf"[,;:—–…]{_CLOSING}(?=\s)|\.\.\.+{_CLOSING}(?=\s)|[，、；：…—]+{_CLOSING}|(?<=\s)[—–-](?=\s)"
)
_PARAGRAPH_END = re.compile(r"\n[^\S\n]*\n\s*")
# What sentencex does not know for an abbreviation; each belongs to the word after it.
_TITLES = {
    "en": "Ms approx",
    "de": "Frl Abb Tel geb gest Okt Dez inkl",
    "es": "D Dña",
    "fr": "M MM Mme Mlle Dr Pr Me St",
    "hi": "डॉ श्री पं प्रो कु सं रु मि",
    "it": "S n pag",
    "pl": "dr nr ul al św inż mgr godz",
    "pt": "R Av pág",
    "ru": "им г-н напр",
    "tr": "Sn Av Doç Alb örn bkz",
}
_WHOLE = re.compile(
    r"♪[^♪\n]+♪"  # a line of lyrics
    # A number, grouped in any way, with its sign or unit.
    r"|[$€£¥₹₺₽]?\s?\d+(?:[.,:/'’ \u00a0\u202f]\d+)*(?:\s?[%‰€$£¥₹₺₽°])?"
    r"|(?<!\w)(?:[^\W\d_]\.\s?){2,}"  # z. B., e. g., J. R. R.
    r"|(?<!\w)[^\W\d_]\.\s(?=[^\W\d_])"  # the J. of J. Smith
)
_LATE_STOP = re.compile(r"\S\s+[?!:;»…]+(?!\S)")  # as French has it: vrai ?


def _cuts(text: str, language: str) -> dict[int, Cut]:
    """Places at which a piece may begin -> what lies before them; both ends of the text too."""
    found: dict[int, Cut] = {match.end(): Cut.WORD for match in re.finditer(r"\s+", text)}

    def mark(end: int, cut: Cut) -> None:
        """The words before `end` are over: a piece may begin after the space that follows."""
        place = end + len(text[end:]) - len(text[end:].lstrip())
        found[place] = min(cut, found.get(place, cut))

    for match in _CLAUSE_END.finditer(text):
        mark(match.end(), Cut.CLAUSE)
    for match in re.finditer(r"\n|♪(?=\s|$)", text):
        mark(match.start() + 1, Cut.CLAUSE)
    end = 0
    sentences = sentencex.segment(language, text)  # pyright: ignore[reportAttributeAccessIssue]
    for sentence in sentences:
        end += len(sentence)
        if not _goes_on(text, end):
            mark(end, Cut.SENTENCE)
    for match in _PARAGRAPH_END.finditer(text):
        found[match.end()] = Cut.PARAGRAPH
    for start, end in _whole(text, language):
        for place in range(start + 1, end):
            found.pop(place, None)
    return found | {0: Cut.PARAGRAPH, len(text): Cut.PARAGRAPH}


def _goes_on(text: str, end: int) -> bool:
    """Whether a dot ends no sentence, because the next word is small: w 1999 r. w Polsce."""
    before, after = text[:end].rstrip(), text[end:].lstrip()
    return before.endswith(".") and not before.endswith("..") and after[:1].islower()


def _whole(text: str, language: str) -> list[tuple[int, int]]:
    """What is not to be cut, each from its first character to past its last."""
    spans = [match.span() for match in CUE.finditer(text)]
    spans += [match.span() for match in _WHOLE.finditer(text)]
    spans += [match.span() for match in _LATE_STOP.finditer(text)]
    if titles := _TITLES.get(language):
        words = "|".join(map(re.escape, titles.split()))
        # Up to the first letter of the next word, which begins no piece.
        spans += [m.span() for m in re.finditer(rf"(?<!\w)(?:{words})\.\s*\w", text)]
    return spans


def _refine(text: str, cuts: dict[int, Cut], fits: Fits) -> None:
    """Where two cuts are too far apart for one piece, allow more between them: between words in
    what must stay whole, then between letters, as in Chinese without a comma, then anywhere.
    """
    for finer in (_words, _letters, _anywhere):
        places = sorted(cuts)
        for start, end in zip(places, places[1:], strict=False):
            if not fits(start, end):
                cuts.update(finer(text, start, end))


def _words(text: str, start: int, end: int) -> dict[int, Cut]:
    places = (start + match.end() for match in re.finditer(r"\s+", text[start:end]))
    return {place: Cut.WORD for place in places if place < end}


def _letters(text: str, start: int, end: int) -> dict[int, Cut]:
    found: dict[int, Cut] = {}
    for place in range(start + 1, end):
        here, before = text[place], text[place - 1]
        if unicodedata.category(here)[0] in "MP" or before in "\u200d\u094d" or here == "\u200d":
            continue  # a mark belongs to its letter, a stop to its word
        apart = _stands_alone(here) or _stands_alone(before)
        found[place] = Cut.WORD if apart else Cut.LETTER
    return found


def _anywhere(text: str, start: int, end: int) -> dict[int, Cut]:
    return dict.fromkeys(range(start + 1, end), Cut.LETTER)


def _stands_alone(char: str) -> bool:
    return 0x3040 <= ord(char) <= 0x309F or 0x3400 <= ord(char) <= 0x9FFF


# -- The best of all ways -------------------------------------------------------------------------


def _best(
    text: str, mass: list[float], cuts: dict[int, Cut], fits: Fits, least: float
) -> list[int]:
    """The places, both ends included, with the least cost in all (shortest path, left to right)."""
    places = sorted(cuts)
    cost = {places[0]: 0.0}
    came_from: dict[int, int] = {}
    reach: deque[int] = deque([places[0]])  # beginnings from which the place at hand is in reach
    for end in places[1:]:
        while len(reach) > 1 and not fits(reach[0], end):
            reach.popleft()
        across = 0.0
        best = math.inf
        for start in reversed(reach):
            short = max(0.0, 1.0 - (mass[end] - mass[start]) / least)
            total = cost[start] + across + _SHORT_COST * short**2 + _mute_cost(text[start:end])
            if total < best:
                best, came_from[end] = total, start
            if cuts[start] is Cut.PARAGRAPH:
                across += _ACROSS_COST
        cost[end] = best + (0.0 if end == places[-1] else _COST[cuts[end]])
        reach.append(end)
    way = [places[-1]]
    while way[-1] in came_from:
        way.append(came_from[way[-1]])
    return way[::-1]


def _mute_cost(piece: str) -> float:
    return 0.0 if has_speech(piece) else _MUTE_COST
