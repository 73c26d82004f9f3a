"""Markup in, speech out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.text import CUES, Names, cue_completions, speakable

NAMES = Names(
    user={1: "Ada"}.get,
    role={2: "Mods"}.get,
    channel={3: "general"}.get,
)


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Hello [laughs] world", "Hello [laughs] world"),
        ("♪ In the jungle ♪", "♪ In the jungle ♪"),
        ("🎵 la la 🎶", "♪ la la ♪"),
        ("WOMAN: I — well... yes", "WOMAN: I — well... yes"),
        ("hi <@1> and <@!1>, ask <@&2> in <#3>", "hi Ada and Ada, ask Mods in general"),
        ("hi <@9> <@&9> <#9>", "hi someone a role a channel"),
        ("look <:wave:123> here <a:party_parrot:456>", "look here"),
        ("**bold** *it* __under__ ~~gone~~ _it_ ***both***", "bold it under gone it both"),
        ("snake_case_name and 2 * 3 * 4", "snake_case_name and 2 * 3 * 4"),
        ("a ||secret|| b", "a secret b"),
        ("run `ls -l` or ```py\nprint(1)\n```", "run ls -l or print(1)"),
        ("see https://www.example.com/a?b=c.", "see example.com"),
        ("see [the page](https://example.com/x) now", "see the page now"),
        ("<https://example.com/a>", "example.com"),
        ("at <t:0:D>, <t:0:t>, <t:0:R>", "at 1 January 1970, 00:00, 1 January 1970, 00:00"),
        ("at <t:99999999999999:F>", "at some time"),
        ("# Title\n> quoted\n- item", "Title\nquoted\nitem"),
        ("**Ann:** Hi \n \n\n  Bob: Yes", "Ann: Hi\n\nBob: Yes"),
        ("use </bark:123456789>", "use bark"),
        ("@everyone wake up", "everyone wake up"),
        (r"a \*star\*", "a *star*"),
        ("a\x00b\x07c\u202edcba\u200b\n\td", "a b cdcba\nd"),
        ("مرحبا بالعالم", "مرحبا بالعالم"),
        ("\u202bשלום\u202c עולם", "שלום עולם"),
        ("great 👍🏽 job 👨‍👩‍👧 ❤️", "great job"),
        ("20 °C", "20 °C"),
        ("नमस्ते", "नमस्ते"),
    ],
)
def test_speakable(written: str, spoken: str) -> None:
    assert speakable(written, NAMES) == spoken


@pytest.mark.parametrize(
    "written",
    ["", "   \n", "😀😂🎉", "<:wave:123>", "\x00\x01\x02", "\u202e\u200b", "...", "||__||"],
)
def test_nothing_to_speak_gives_an_empty_text(written: str) -> None:
    assert speakable(written) == ""


@given(st.text(max_size=300))
def test_any_text_gives_clean_lines(written: str) -> None:
    spoken = speakable(written, NAMES)
    assert spoken == spoken.strip()
    assert not any(gap in spoken for gap in ("  ", " \n", "\n ", "\n\n\n"))
    assert all(char.isprintable() or char == "\n" for char in spoken)


@pytest.mark.parametrize("piece", ["*", "`", "|", "[", "<@1>", "> ", "https://a.b/", "_a", "\\"])
def test_ten_thousand_characters_of_markup_take_no_time(piece: str) -> None:
    """Nested quantifiers would take minutes here, and hold up every other user."""
    speakable(piece * (10_000 // len(piece)))


def test_cues_are_offered_at_the_end() -> None:
    assert cue_completions("Hello")[0] == "Hello [laughs]"
    assert cue_completions("Hello ")[0] == "Hello [laughs]"
    assert cue_completions("Hello [cl") == ["Hello [clears throat]"]
    assert cue_completions("Hi [LAUGH") == ["Hi [laughs]", "Hi [laughter]"]
    assert len(cue_completions("")) == len(CUES)
    assert cue_completions("Hello [xyz") == []
