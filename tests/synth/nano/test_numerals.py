import random
import re

import pytest

from synth.nano import numerals
from synth.nano.recipe import TEXT
from synth.nano.spelling import PIECES, spell


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    rng = random.Random(8)
    return [numerals.sentence(rng) for _ in range(6000)]


def test_every_sentence_has_a_figure_and_can_be_spelled(sentences: list[str]):
    for text in (*sentences, *numerals.HELD_OUT):
        assert re.search(r"\d", text), text
        assert PIECES.index("[UNK]") not in spell(text), text
        assert len(spell(text)) <= TEXT.block, text


@pytest.mark.parametrize(
    "kind",
    [r"\$\d+\b", r"\$\d+\.\d\d\b", r"\b\d{1,2}:\d\d\b", r"\b\d{1,2} ?pm\b", r"\b20\d\d\b"]
    + [r"\d%", r"\d %", r"\b\d,\d{3}\b", r"\b\d\.\d", r"\b\d*1st\b", r"\b\d{3}-\d{4}\b", r"#\d"],
)
def test_every_kind_is_made(sentences: list[str], kind: str):
    assert sum(bool(re.search(kind, text)) for text in sentences) > 20


def test_nothing_is_made_that_the_teacher_misreads(sentences: list[str]):
    r"""It reads 24/7 as "slash", 10/10 as a date, 007 as 7, 4071 as a year, 2.50 as 2.5."""
    for text in sentences:
        assert "/" not in text
        rest = re.sub(r"(\d{3}-)?\d{3}-\d{4}|\d+:\d\d", "", text)  # telephone numbers, times
        assert not re.search(r"(?<![.,\d])0\d", rest), text
        assert not re.search(r"(?<![$€£\d])\d+\.\d*0\b", rest), text
        assert all(1900 <= int(n) < 2040 for n in re.findall(r"(?<![\d,.])\d{4,}", rest)), text
        assert not re.search(r"(?<!\d)-\d", rest), text


@pytest.mark.parametrize(
    ("n", "text"),
    [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (13, "13th")]
    + [(20, "20th"), (21, "21st"), (33, "33rd"), (112, "112th")],
)
def test_suffixed(n: int, text: str):
    assert numerals.suffixed(n) == text


def test_no_full_stop_twice(sentences: list[str]):
    """ "at 3 p.m." at the end of a sentence is its end."""
    assert any(text.endswith("p.m.") for text in sentences)
    assert not any(".." in text for text in sentences)
