"""Numbers are compared as they sound, whether in words or in figures."""

import pytest

pytest.importorskip("scipy", reason="the judges' extra is not installed")

from synth.nano.judges import words


@pytest.mark.parametrize(
    ("figures", "spoken"),
    [
        ("It costs $25.", "it costs twenty five dollars"),
        (
            "$3.75 or €1,200",
            "three dollars and seventy five cents or one thousand two hundred euros",
        ),
        ("$2 million", "two million dollars"),
        ("Only 50% or 4.5 %?", "only fifty percent or four point five per cent"),
        ("7:30, 7:05, 7:00", "seven thirty seven oh five seven"),
        ("8 p.m. and 9pm", "eight pm and nine pm"),
        ("the 1st, 12th, 20th and 31st", "the first twelfth twentieth and thirty first"),
        ("the 101st", "the one hundred first"),
        ("Dial 415-555-0198.", "dial four one five five five five zero one nine eight"),
        ("5550123", "five five five zero one two three"),
        ("Room 318, twenty-five", "room three hundred eighteen twenty five"),
    ],
)
def test_figures_are_compared_as_they_sound(figures: str, spoken: str):
    assert words(figures) == words(spoken)
