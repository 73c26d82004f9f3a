"""A text as a dialogue: who says what, and with which voice.

    Alice: Did you hear that?
    Bob: [gasps] I did.

A text is one when a cast is given, or when at least two of its lines look like it and the first
does; "Note: hello" stays speech. In a single line, as chat programs make of what is pasted, a turn
begins after the end of a sentence. Knows no models.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from synth.errors import InvalidRequest
from synth.longform import Utterance, split_for
from synth.protocol import Gender, Limits, VoiceInfo

Voice = TypeVar("Voice")  # a name, or what it stands for

SPEAKER_PAUSE_S = 0.5
MOST_SPEAKERS = 10

# One to three words, none of them small: "Alice", "Dr. No", "Old Man", アリス.
_WORD = r"[^\W\d_a-z][\w\u0900-\u0963.'’-]{0,20}"  # \w has no vowel signs
_NAME = rf"{_WORD}(?: {_WORD}){{0,2}}"
_COLON = r"[^\S\n]?(?::(?=\s)|：)"
_LINE = re.compile(rf"^[^\S\n]*({_NAME}){_COLON}\s*", re.M)
_INLINE = re.compile(rf"(?:^|(?<=[.!?…\]♪\"”»。！？])[^\S\n]*)({_NAME}){_COLON}\s*", re.M)


@dataclass(frozen=True)
class Turn:
    """What one speaker says before the next one does; "" is whoever reads the rest."""

    speaker: str
    text: str


def turns_of(text: str, cast: Iterable[str] = ()) -> tuple[Turn, ...]:
    """The turns of a dialogue, () when the text is none.

    cast: names that are certain to be speakers, in any spelling of capitals.
    """
    names = {name.casefold(): name for name in cast}
    marks = _marks(text, names)
    if not marks:
        return ()
    turns: list[Turn] = []
    if before := text[: marks[0].start()].strip():
        turns.append(Turn("", before))
    spelled: dict[str, str] = dict(names)
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        said = text[mark.end() : following.start() if following else len(text)].strip()
        speaker = spelled.setdefault(mark[1].casefold(), mark[1])
        if said:
            turns.append(Turn(speaker, said))
    return tuple(turns)


def utterances_of(
    text: str, limits: Limits, language: str = "", cast: Iterable[str] = ()
) -> tuple[Utterance, ...]:
    """Any text, dialogue or not, as utterances that fit a worker's limits; () when empty."""
    turns = turns_of(text, cast)
    if not turns:
        return split_for(text, limits, language)
    found: list[Utterance] = []
    for turn in turns:
        if found and found[-1].speaker != turn.speaker:
            found[-1] = replace(found[-1], pause_s=SPEAKER_PAUSE_S)
        pieces = split_for(turn.text, limits, language)
        found += [replace(piece, speaker=turn.speaker) for piece in pieces]
    return tuple(found)


def parse_cast(items: Iterable[str]) -> dict[str, str]:
    """["Alice=v2/en_speaker_9", ...] -> {"Alice": "v2/en_speaker_9", ...}; items may hold several,
    parted by commas.

    Raises InvalidRequest naming what is not NAME=VOICE.
    """
    cast: dict[str, str] = {}
    for item in (part for group in items for part in group.split(",")):
        if not item.strip():
            continue
        name, found, voice = (part.strip() for part in item.partition("="))
        if not (name and found and voice):
            raise InvalidRequest(
                f"The cast has {item.strip()!r}: write NAME=VOICE, and commas between several."
            )
        if name.casefold() in map(str.casefold, cast):
            raise InvalidRequest(f"The cast names {name} twice: give each name one voice.")
        cast[name] = voice
    return cast


def complete_cast(
    utterances: Sequence[Utterance],
    cast: Mapping[str, Voice],
    voices: Sequence[VoiceInfo],
    language: str,
) -> "dict[str, Voice | str]":
    """A voice for everybody who speaks: the given ones, then by turn a woman's and a man's of the
    language, none twice while there are others. Whoever reads the rest has none of these.

    Raises InvalidRequest for more than MOST_SPEAKERS speakers.
    """
    speakers = list(dict.fromkeys(each.speaker for each in utterances if each.speaker))
    if len(speakers) > MOST_SPEAKERS:
        raise InvalidRequest(
            f"There are {len(speakers)} speakers in that dialogue, and {MOST_SPEAKERS} is the most."
        )
    complete: dict[str, Voice | str] = {
        name: voice for name, voice in cast.items() if name in speakers
    }
    fitting = [v for v in voices if v.language == language] or list(voices)
    newest = max((voice.version for voice in fitting), default="")
    fitting = [voice for voice in fitting if voice.version == newest]
    women = [voice.name for voice in fitting if voice.gender is Gender.FEMALE]
    others = [voice.name for voice in fitting if voice.gender is not Gender.FEMALE]
    for number, speaker in enumerate(name for name in speakers if name not in complete):
        ranked = (women + others) if number % 2 == 0 else (others + women)
        free = [name for name in ranked if name not in complete.values()] or ranked
        if free:
            complete[speaker] = free[0]
    return complete


def _marks(text: str, names: Mapping[str, str]) -> list[re.Match[str]]:
    """Where speakers are named."""
    if names:
        known = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
        anywhere = re.compile(rf"(?<!\w)({known}){_COLON}\s*", re.IGNORECASE)
        found = list(anywhere.finditer(text))
        starts = {match.start(1) for match in found}
        lines = [match for match in _LINE.finditer(text) if not _has_small(match[1])]
        more = [match for match in lines if match.start(1) not in starts]
        return sorted([*found, *more], key=lambda match: match.start(1)) if found else []
    for pattern in (_LINE, _INLINE):
        found = [match for match in pattern.finditer(text) if not _has_small(match[1])]
        if len(found) >= 2 and not text[: found[0].start()].strip():
            return found
    return []


def _has_small(name: str) -> bool:
    return any(word[0].islower() for word in name.split())
