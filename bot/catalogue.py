"""The loaded model's voices as people look for them: by language, number and gender, from memory.

Knows the languages' names and a sentence to try a voice with. Knows nothing of Discord.
"""

import difflib
from collections.abc import Iterable

from synth.protocol import Gender, VoiceInfo

LANGUAGES = {
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "hi": "Hindi",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "pl": "Polish",
    "pt": "Portuguese",
    "ru": "Russian",
    "tr": "Turkish",
    "zh": "Chinese",
}

_SAMPLES = {
    "de": "Hallo! So klingt meine Stimme.",
    "en": "Hello! This is what my voice sounds like.",
    "es": "¡Hola! Así suena mi voz.",
    "fr": "Bonjour ! Voici le son de ma voix.",
    "hi": "नमस्ते! मेरी आवाज़ ऐसी है।",
    "it": "Ciao! Questa è la mia voce.",
    "ja": "こんにちは。これが私の声です。",
    "ko": "안녕하세요! 제 목소리는 이렇습니다.",
    "pl": "Cześć! Tak brzmi mój głos.",
    "pt": "Olá! Esta é a minha voz.",
    "ru": "Привет! Вот так звучит мой голос.",
    "tr": "Merhaba! Sesim böyle.",
    "zh": "你好!这就是我的声音。",
}

_FUZZY_CUTOFF = 0.6
# A search runs on the event loop at each key that is pressed.
_QUERY_LENGTH = 60
_LABEL_LENGTH = 100  # Discord's limit for what a list shows


def language_name(code: str) -> str:
    return LANGUAGES.get(code, code.upper() or "No language of its own")


def sample_sentence(voice: VoiceInfo) -> str:
    """What the voice says when it is tried, in its own language where that is known."""
    return _SAMPLES.get(voice.language, _SAMPLES["en"])


def label(voice: VoiceInfo) -> str:
    """A voice for a list: its name first, so that what is chosen is what is read."""
    facts = [language_name(voice.language)] if voice.language else []
    if voice.gender is not Gender.UNKNOWN:
        facts.append(voice.gender.value)
    shown = f"{voice.name} ({', '.join(facts)})" if facts else voice.name
    return shown[:_LABEL_LENGTH]


class Catalogue:
    """The voices of one model, in its own order."""

    def __init__(self, voices: Iterable[VoiceInfo]) -> None:
        self.voices = tuple(voices)
        self._by_name = {voice.name.casefold(): voice for voice in self.voices}
        self._tokens = {voice.name: _tokens(voice) for voice in self.voices}

    def get(self, name: str) -> VoiceInfo | None:
        """The voice of that name, upper and lower case alike."""
        return self._by_name.get(name.strip().casefold())

    def most_like(self, other: VoiceInfo | None) -> VoiceInfo | None:
        """The voice to stand in for another model's: its gender, then its language, then the first.

        None when there are no voices.
        """
        if other is None:
            return next(iter(self.voices), None)
        fitting = [(v.gender is other.gender, v.language == other.language) for v in self.voices]
        if not fitting:
            return None
        return self.voices[fitting.index(max(fitting))]

    def nearest(self, name: str, count: int = 3) -> list[str]:
        """Names to offer for a name that does not exist."""
        close = difflib.get_close_matches(
            name.strip().casefold()[:_QUERY_LENGTH], list(self._by_name), n=count, cutoff=0.4
        )
        found = [self._by_name[key].name for key in close]
        return found or [voice.name for voice in self.search(name, count)]

    def languages(self, query: str = "") -> list[tuple[str, str]]:
        """Codes that have voices with their languages' names, by name; those that fit a query."""
        codes = {voice.language for voice in self.voices}
        pairs = sorted(((code, language_name(code)) for code in codes), key=lambda pair: pair[1])
        wanted = query.strip().casefold()
        return [pair for pair in pairs if wanted in (pair[0], "") or wanted in pair[1].casefold()]

    def language_of(self, query: str) -> str:
        """The code of the language that fits best; the first one when none does."""
        found = self.languages(query) or self.languages("en") or self.languages()
        return found[0][0] if found else ""

    def of_language(self, code: str) -> list[VoiceInfo]:
        return [voice for voice in self.voices if voice.language == code]

    def search(self, query: str, limit: int = 25, *, locale: str = "") -> list[VoiceInfo]:
        """The best matches: those with every word of the query, else those that look alike.

        Voices of the reader's own language come first among equals.
        """
        words = query.casefold()[:_QUERY_LENGTH].split()
        home = locale.partition("-")[0]
        found = [voice for voice in self.voices if all(self._has(voice, word) for word in words)]
        found.sort(key=lambda voice: voice.language != home)
        if not found:
            scored = [(self._likeness(voice, words), voice) for voice in self.voices]
            alike = [pair for pair in scored if pair[0] >= _FUZZY_CUTOFF]
            alike.sort(key=lambda pair: -pair[0])
            found = [voice for _, voice in alike]
        return found[:limit]

    def _has(self, voice: VoiceInfo, word: str) -> bool:
        # Facts from their start only: "male" is not to find "female".
        return word in voice.name.casefold() or any(
            token.startswith(word) for token in self._tokens[voice.name]
        )

    def _likeness(self, voice: VoiceInfo, words: list[str]) -> float:
        tokens = self._tokens[voice.name]
        best = (
            max(difflib.SequenceMatcher(None, word, token).ratio() for token in tokens)
            for word in words
        )
        return min(best, default=0.0)


def _tokens(voice: VoiceInfo) -> tuple[str, ...]:
    parts = voice.name.casefold().replace("/", "_").split("_")
    facts = [voice.language, language_name(voice.language), voice.gender.value, voice.version]
    return tuple(part for part in [*parts, *(fact.casefold() for fact in facts)] if part)
