"""Discord markup -> speakable text. Pure functions over strings.

Knows Discord's markup and which signs Bark gives a meaning to: cues in brackets such as [laughs],
music notes around lyrics, capitals, dashes and dots. Knows no names: they come in as `Names`.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

from synth.longform import has_speech

# The non-speech cues people use with Bark; typed into the text, offered by autocomplete.
CUES = (
    "[laughs]",
    "[laughter]",
    "[sighs]",
    "[gasps]",
    "[music]",
    "[clears throat]",
    "♪",
    "...",
    "—",
)

_MUSIC_NOTES = "♩♪♫♬"
_MUSIC_EMOJI = str.maketrans({"🎵": "♪", "🎶": "♪", "🎼": "♪"})

_Lookup = Callable[[int], str | None]


def _nobody(_: int) -> None:
    return None


@dataclass(frozen=True)
class Names:
    """How to find the name behind a mention; each gives None for an unknown id."""

    user: _Lookup = _nobody
    role: _Lookup = _nobody
    channel: _Lookup = _nobody


def speakable(text: str, names: Names | None = None) -> str:
    """What is to be spoken of a Discord message: its lines, without markup, emoji or controls.

    Returns "" when nothing speakable is left.
    """
    names = names or Names()
    text = unicodedata.normalize("NFC", text).translate(_MUSIC_EMOJI)
    text = _blocks(text)
    text = _references(text, names)
    text = _links(text)
    text = _emphasis(text)
    text = "".join(map(_sane, text))
    text = re.sub(r"[^\S\n]+", " ", text).strip()
    # A line may be a turn of a dialogue, and an empty one parts two paragraphs.
    text = re.sub(r" ?\n(?: ?\n)+ ?", "\n\n", re.sub(r" ?\n ?", "\n", text))
    return text if has_speech(text) else ""


def cue_completions(text: str) -> list[str]:
    """Ways to go on with `text`: the same text with each cue at its end, an open one completed."""
    head, opened, tail = text.rpartition("[")
    if opened and "]" not in tail:
        cues = [cue for cue in CUES if cue.startswith("[" + tail.lower())]
        return [head + cue for cue in cues]
    gap = "" if not text or text.endswith(" ") else " "
    return [text + gap + cue for cue in CUES]


def _blocks(text: str) -> str:
    text = re.sub(r"```(?:[\w+-]+\n)?(.*?)```", r" \1 ", text, flags=re.S)
    text = re.sub(r"(`{1,2})(.+?)\1", r"\2", text, flags=re.S)
    text = re.sub(r"\|\|(.+?)\|\|", r"\1", text, flags=re.S)
    text = re.sub(r"^\s*(?:>>>|>)\s+", "", text, flags=re.M)
    text = re.sub(r"^\s*(?:#{1,3}|-#)\s+", "", text, flags=re.M)
    return re.sub(r"^\s*[-*]\s+", "", text, flags=re.M)


def _references(text: str, names: Names) -> str:
    def lookup(find: _Lookup, otherwise: str) -> Callable[[re.Match[str]], str]:
        return lambda match: find(int(match[1])) or otherwise

    text = re.sub(r"<@!?(\d{1,20})>", lookup(names.user, "someone"), text)
    text = re.sub(r"<@&(\d{1,20})>", lookup(names.role, "a role"), text)
    text = re.sub(r"<#(\d{1,20})>", lookup(names.channel, "a channel"), text)
    text = re.sub(r"<a?:(\w{2,32}):\d{1,20}>", " ", text)
    text = re.sub(r"<t:(-?\d{1,14})(?::([tTdDfFsSR]))?>", _timestamp, text)
    text = re.sub(r"</([^:>]{1,100}):\d{1,20}>", r"\1", text)
    text = re.sub(r"<id:\w+>", " ", text)
    return re.sub(r"@(everyone|here)\b", r"\1", text)


def _timestamp(match: re.Match[str]) -> str:
    try:
        moment = datetime.fromtimestamp(int(match[1]), UTC)
    except (ValueError, OverflowError, OSError):
        return "some time"
    day = f"{moment.day} {moment:%B} {moment.year}"
    if match[2] in ("d", "D"):
        return day
    if match[2] in ("t", "T"):
        return f"{moment:%H:%M}"
    return f"{day}, {moment:%H:%M}"


def _links(text: str) -> str:
    text = re.sub(r"\[([^\[\]]+)\]\(<?https?://[^\s)]+>?\)", r"\1", text)
    return re.sub(r"<?(https?://[^\s<>]+)>?", lambda match: _host(match[1]), text)


def _host(url: str) -> str:
    try:
        host = urlsplit(url).hostname or "a link"
    except ValueError:
        host = "a link"
    return host.removeprefix("www.")


def _emphasis(text: str) -> str:
    for mark in (r"\*\*\*", r"\*\*", r"__", r"~~", r"\*"):
        text = re.sub(rf"(?<!\\){mark}(?=\S)(.+?)(?<=\S){mark}", r"\1", text, flags=re.S)
    text = re.sub(r"(?<!\w)_(?=\S)(.+?)(?<=\S)_(?!\w)", r"\1", text, flags=re.S)
    return re.sub(r"\\([\\*_~|`>#\[\]()-])", r"\1", text)


def _sane(char: str) -> str:
    if char == "\n":
        return char
    category = unicodedata.category(char)
    if category in ("Cc", "Zl", "Zp", "Zs"):
        return " "
    if category in ("Cf", "Cs", "Co", "Cn"):  # bidi overrides, zero-width signs, surrogates
        return ""
    # Symbols below the arrows are typography (a degree sign, a trade mark), above them pictures.
    if category == "So" and char >= "\u2190" and char not in _MUSIC_NOTES:
        return " "
    if char in "\ufe0f\ufe0e\u20e3" or "\U0001f3fb" <= char <= "\U0001f3ff":
        return ""
    return char
