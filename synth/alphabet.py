"""What of a text a model can say: whether there is speech in it, and in characters it knows.

Words whose letters a model does not know would come out as nothing, or as anything. So they are
left out before, and that is told. Knows no model and no word pieces.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from synth.errors import InvalidRequest
from synth.longform import Utterance, has_speech

# Whose loss is told: letters, digits, and signs that are read as words. Not pictures.
_SPOKEN = ("L", "N", "Sc", "Sm")


def require_speech(text: str) -> None:
    """Raise InvalidRequest where there is none."""
    if has_speech(text):
        return
    if all(char.isspace() or unicodedata.category(char)[0] == "C" for char in text):
        raise InvalidRequest("There is nothing to say: the text is empty.")
    raise InvalidRequest("There is nothing to say: add some words to the signs and emoji.")


def spell(
    utterances: Sequence[Utterance], known: frozenset[str], languages: Sequence[str] = ()
) -> tuple[tuple[Utterance, ...], tuple[str, ...]]:
    """The utterances without the characters that are not `known`, and a note on how many words'
    characters those were. One of which nothing is left to say is left out.

    known: what the model's tokenizer tells apart; nothing: not to be looked at. languages: codes.
    Raises InvalidRequest when nothing is left at all.
    """
    if not known:
        return tuple(utterances), ()
    kept: list[Utterance] = []
    lost = 0
    for utterance in utterances:
        text, dropped = _without_unknown(utterance.text, known)
        lost += sum(unicodedata.category(char).startswith(_SPOKEN) for char in dropped)
        if not dropped or has_speech(text):
            kept.append(replace(utterance, text=text))
    english = tuple(languages) == ("en",)
    if not any(has_speech(utterance.text) for utterance in kept):
        raise InvalidRequest(
            "This model speaks English only: write the text in English letters."
            if english
            else "This model has no letters for that text: write it in another script."
        )
    if not lost:
        return tuple(kept), ()
    characters, were = ("character", "was") if lost == 1 else ("characters", "were")
    who = "This model speaks English only: " if english else "With this model, "
    return tuple(kept), (f"{who}{lost} {characters} it has no letters for {were} left out.",)


def _without_unknown(text: str, known: frozenset[str]) -> tuple[str, str]:
    """The text, and what was dropped from it; a word that loses all goes with its stops."""
    if all(_passes(char, known) for char in text):
        return text, ""
    words: list[str] = []
    dropped = ""
    for word in unicodedata.normalize("NFC", text).split():
        left = "".join(char for char in word if _passes(char, known))
        dropped += "".join(char for char in word if not _passes(char, known))
        if left == word or has_speech(left):
            words.append(left)
    return " ".join(words), dropped


def _passes(char: str, known: frozenset[str]) -> bool:
    """Known, or nothing that is spoken or spelled: spaces and controls."""
    return char in known or char.isspace() or unicodedata.category(char)[0] == "C"
