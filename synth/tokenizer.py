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
from synth.vocab import TextNumbers


@dataclass(frozen=True)
class EncodedText:
    """text_tokens: (block,) int64, offset and padded. `note` says what was cut, or is empty."""

    text_tokens: npt.NDArray[np.int64]
    note: str


class Tokenizer:
    """The checkpoint's BERT tokenizer, from its vocab.txt or tokenizer.json."""

    def __init__(self, file: Path, numbers: TextNumbers) -> None:
        """Raises InvalidRequest when `file` cannot be read as a tokenizer."""
        self.numbers = numbers
        self._bert = _load(file, numbers)
        ids = self._bert.get_vocab().values()
        self.size = max(ids, default=-1) + 1

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
        note = ""
        if len(ids) > block:
            lost = 100 * (len(ids) - block) / len(ids)
            note = (
                f"The text was too long for one clip: the last {lost:.1f} % of it "
                f"({len(ids) - block} of {len(ids)} word pieces) was cut."
            )
        text_tokens = np.full(block, self.numbers.pad, dtype=np.int64)
        kept = np.asarray(ids[:block], dtype=np.int64) + self.numbers.offset
        text_tokens[: len(kept)] = kept
        return EncodedText(text_tokens, note)


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
