from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from synth.nano.recipe import NANO
from synth.nano.spelling import PIECES, spell

BERT = BertTokenizer({piece: i for i, piece in enumerate(PIECES)}, do_lower_case=False)
ALPHABET = "abcXYZ019 .,?!'’\"-—…[]♪éÉñ°日\u0301\t"


def test_pieces_are_distinct():
    assert len(set(PIECES)) == len(PIECES)


def test_no_letter_of_plain_english_is_unknown():
    text = "The QUICK brown fox can't jump 42 times... [laughs] ♪ la la ♪ — naïve café!"
    assert PIECES.index("[UNK]") not in spell(text)


@settings(max_examples=150, deadline=None)
@given(st.text(ALPHABET, max_size=30))
def test_spells_as_bert_does(text: str):
    """Training spells with `spell`, the engine with transformers: they must agree."""
    assert spell(text) == BERT.encode(text, add_special_tokens=False)


def test_every_id_fits_the_config():
    assert NANO.text.offset + len(PIECES) == NANO.text.pad
    assert NANO.text.infer < NANO.semantic_shape.input_vocab
