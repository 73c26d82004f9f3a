"""Text to the text block: cased BERT word pieces, offset, cut with a note, padded."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import BertTokenizer

from synth.errors import InvalidRequest
from synth.random_model import VOCABULARY
from synth.tokenizer import Tokenizer
from synth.vocab import BARK, TextNumbers

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "Hello",
    "hello",
    "##s",
    "[",
    "]",
    "laugh",
    "é",
]


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return file


def test_a_bare_vocabulary_is_cased(vocabulary: Path) -> None:
    tokenizer = Tokenizer(vocabulary, BARK.text)
    pieces = [WORDS[i] for i in tokenizer.ids("Hello hello [laughs] é")]
    assert pieces == ["Hello", "hello", "[", "laugh", "##s", "]", "é"]
    assert tokenizer.size == len(WORDS)


def test_a_model_may_ask_for_lower_case(vocabulary: Path) -> None:
    tokenizer = Tokenizer(vocabulary, replace(BARK.text, lower_case=True))
    assert [WORDS[i] for i in tokenizer.ids("HELLO")] == ["hello"]


def test_a_tokenizer_json_is_read_as_it_is(tmp_path: Path, vocabulary: Path) -> None:
    vocab = {word: n for n, word in enumerate(WORDS)}
    BertTokenizer(vocab, do_lower_case=False).save_pretrained(tmp_path / "saved")
    file = tmp_path / "saved" / "tokenizer.json"
    text = "Hello [laughs]  hello"
    assert Tokenizer(file, BARK.text).ids(text) == Tokenizer(vocabulary, BARK.text).ids(text)


def test_the_block_is_offset_and_padded_on_the_right(vocabulary: Path) -> None:
    encoded = Tokenizer(vocabulary, BARK.text).encode("  Hello \n\t hello ")
    assert encoded.text_tokens.shape == (256,) and encoded.text_tokens.dtype == np.int64
    assert encoded.text_tokens[:2].tolist() == [10_048 + 5, 10_048 + 6]
    assert set(encoded.text_tokens[2:].tolist()) == {129_595}
    assert encoded.notes == ()


def test_a_long_text_is_cut_and_the_loss_told() -> None:
    tokenizer = Tokenizer(VOCABULARY, TextNumbers(block=10, offset=0, pad=9_999))
    encoded = tokenizer.encode("a " * 40)
    assert encoded.text_tokens.tolist() == tokenizer.ids("a") * 10
    (note,) = encoded.notes
    assert "75.0 %" in note and "30 of 40" in note
    assert tokenizer.encode("a " * 10).notes == ()


@pytest.mark.parametrize("text", ["", "   \n\t", "\u200b\u200e", "\x00\x07\x1b"])
def test_nothing_to_say_is_one_plain_sentence(text: str) -> None:
    with pytest.raises(InvalidRequest, match="nothing to say"):
        Tokenizer(VOCABULARY, BARK.text).encode(text)


@pytest.mark.parametrize("text", ["😀😀", "你好, 你好!"])
def test_a_text_of_unknown_words_only_is_refused(text: str) -> None:
    """It became a short sound, and a success."""
    with pytest.raises(InvalidRequest, match="nothing to say: the model knows no word"):
        Tokenizer(VOCABULARY, BARK.text).encode(text)


def test_words_that_are_not_known_are_told(vocabulary: Path) -> None:
    tokenizer = Tokenizer(vocabulary, BARK.text)
    assert "know a word of the text" in tokenizer.encode("Hello Привет").notes[0]
    assert "know 2 words of the text" in tokenizer.encode("дела Hello Привет").notes[0]


def test_the_characters_are_those_of_all_pieces(vocabulary: Path) -> None:
    tokenizer = Tokenizer(vocabulary, BARK.text)
    assert tokenizer.characters == frozenset("Hellohellos[]laughé")
    # Which become lower case, nobody can see from the pieces.
    assert not Tokenizer(vocabulary, replace(BARK.text, lower_case=True)).characters


@pytest.mark.parametrize(
    "text", ["שלום עולם", "<@123> <#4> @everyone", "a\x00b\u202ec", "you 你好"]
)
def test_any_other_text_is_encoded(text: str) -> None:
    assert Tokenizer(VOCABULARY, BARK.text).encode(text).text_tokens[0] != 129_595


@pytest.mark.parametrize(
    ("name", "content"), [("vocab.txt", b"\xff\xfe\x00"), ("tokenizer.json", b"{not json")]
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(InvalidRequest, match=name):
        Tokenizer(file, BARK.text)
    with pytest.raises(InvalidRequest, match="does not exist"):
        Tokenizer(tmp_path / "absent.json", BARK.text)
