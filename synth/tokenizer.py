"""Text to the semantic stage's first block: BERT word pieces, offset, cut and padded.

Knows nothing of voices or of what the text means.

Source: suno-ai/bark@f4f32d4 bark/generation.py:360 (_tokenize, _normalize_whitespace) and :415.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from synth.errors import InvalidRequest
from synth.longform import has_speech
from synth.vocab import TextNumbers


@dataclass(frozen=True)
class EncodedText:
    """text_tokens: (block,) int64, offset and padded. `notes` say what was cut or is not known."""

    text_tokens: npt.NDArray[np.int64]
    notes: tuple[str, ...]


class Tokenizer:
    """The checkpoint's BERT tokenizer, from its vocab.txt or tokenizer.json."""

    def __init__(self, file: Path, numbers: TextNumbers) -> None:
        """Raises InvalidRequest when `file` cannot be read as a tokenizer."""
        self.numbers = numbers
        self._bert = _load(file, numbers)
        vocab: dict[str, int] = self._bert.get_vocab()
        self.size = max(vocab.values(), default=-1) + 1
        self._unknown = vocab.get(self._bert.unk_token)

    @property
    def characters(self) -> frozenset[str]:
        """Every character that is in a word piece; none where the tokenizer changes letters before
        it looks them up, as to lower case.
        """
        normalizer = self._bert.backend_tokenizer.normalizer
        if normalizer is not None and normalizer.normalize_str("É") != "É":
            return frozenset()
        special = set(self._bert.all_special_tokens)
        pieces = (piece for piece in self._bert.get_vocab() if piece not in special)
        return frozenset("".join(piece.removeprefix("##") for piece in pieces))

    def ids(self, text: str) -> list[int]:
        """Word piece ids, without special tokens and without offset."""
        text = text.encode("utf-8", "replace").decode("utf-8")  # JSON can carry half a character
        text = re.sub(r"\s+", " ", text).strip()
        return list(self._bert.encode(text, add_special_tokens=False)) if text else []

    def encode(self, text: str) -> EncodedText:
        """Make the text block of the semantic prompt.

        Raises InvalidRequest when nothing in the text can be spoken.
        """
        ids = self.ids(text)
        if not ids:
            raise InvalidRequest("There is nothing to say: the text is empty.")
        block = self.numbers.block
        notes: list[str] = []
        if unknown := ids.count(self._unknown) if self._unknown is not None else 0:
            known = [each for each in ids if each != self._unknown]
            if not has_speech("".join(self._bert.convert_ids_to_tokens(known))):
                raise InvalidRequest("There is nothing to say: the model knows no word of it.")
            words = "a word" if unknown == 1 else f"{unknown} words"
            notes.append(
                f"The model does not know {words} of the text: anything may be said there."
            )
        if len(ids) > block:
            lost = 100 * (len(ids) - block) / len(ids)
            notes.append(
                f"The text was too long for one clip: the last {lost:.1f} % of it "
                f"({len(ids) - block} of {len(ids)} word pieces) was cut."
            )
        text_tokens = np.full(block, self.numbers.pad, dtype=np.int64)
        kept = np.asarray(ids[:block], dtype=np.int64) + self.numbers.offset
        text_tokens[: len(kept)] = kept
        return EncodedText(text_tokens, tuple(notes))


def _load(file: Path, numbers: TextNumbers) -> Any:
    # Imported here: it takes a second, and only a process that holds a model needs it.
    from transformers import BertTokenizer
    from transformers.tokenization_utils_tokenizers import TokenizersBackend

    if not file.is_file():
        raise InvalidRequest(f"The tokenizer file {file} does not exist.")
    try:
        if file.suffix == ".json":
            return TokenizersBackend(tokenizer_file=str(file))
        # BERT's own rule: a token's id is its line number.
        lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        vocab = {token: index for index, token in enumerate(lines)}
        return BertTokenizer(vocab, do_lower_case=numbers.lower_case)
    except Exception as error:
        # The tokenizers library raises bare Exception for a malformed file.
        raise InvalidRequest(f"{file} is not a tokenizer file: {error}.") from error
