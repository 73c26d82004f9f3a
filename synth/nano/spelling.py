"""The nano model's text: a BERT WordPiece vocabulary whose pieces are single characters.

A word's first character and its later ones are different pieces ("a", "##a"), so no piece for
the space is needed. `spell` gives the same ids as transformers' cased BertTokenizer over PIECES.
"""

import string
import unicodedata

_LETTERS = string.ascii_lowercase + string.ascii_uppercase + string.digits
_ACCENTED = "".join(
    chr(c) for c in range(0xC0, 0x180) if unicodedata.category(chr(c)) in ("Ll", "Lu")
)
_MARKS = string.punctuation + "‘’“”–—…¡¿£€§°·•♪♫"
PIECES = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *_LETTERS,
    *("##" + c for c in _LETTERS),
    *_MARKS,
    *("##" + c for c in "°·•♪♫"),  # symbols BERT does not split off a word
    *_ACCENTED,
    *("##" + c for c in _ACCENTED),
)
_INDEX = {piece: i for i, piece in enumerate(PIECES)}
_UNKNOWN = _INDEX["[UNK]"]


def is_punctuation(char: str) -> bool:
    """BERT's notion: all of ASCII's non-letters, and Unicode's P categories."""
    code = ord(char)
    ascii_mark = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return ascii_mark or unicodedata.category(char).startswith("P")


def _stands_alone(char: str) -> bool:
    """BERT makes a word of each Chinese character, whatever is beside it."""
    code = ord(char)
    return 0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0xF900 <= code <= 0xFAFF


def spell(text: str) -> list[int]:
    """Piece ids of `text`; a word with an unknown character is one [UNK]."""
    words: list[str] = []
    for chunk in text.split():
        word = ""
        for char in chunk:
            if is_punctuation(char) or _stands_alone(char):
                if word:
                    words.append(word)
                words.append(char)
                word = ""
            else:
                word += char
        if word:
            words.append(word)
    ids: list[int] = []
    for word in words:
        pieces = [_INDEX.get(c if i == 0 else "##" + c) for i, c in enumerate(word)]
        if any(piece is None for piece in pieces):
            ids.append(_UNKNOWN)
        else:
            ids.extend(piece for piece in pieces if piece is not None)
    return ids
