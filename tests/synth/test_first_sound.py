"""How soon a clip can be heard."""

from synth.first_sound import Heard, measure, table
from synth.protocol import Streaming
from tests.synth.tiny import RANDOM, history, tiny_model


def test_low_latency_is_heard_sooner_by_a_clock_that_counts_looks() -> None:
    """Every event is a look at the clock, so time is the number of chunks."""
    ticks = iter(range(1000))
    clips = list(
        measure(tiny_model(), history(RANDOM, 60), 2.0, repeats=2, clock=lambda: float(next(ticks)))
    )
    assert [clip.streaming for clip in clips] == list(Streaming) * 2
    for clip in clips:
        assert clip.first_s == 1 and clip.audio_s == 2.0
        assert clip.first_s <= clip.steady_s <= clip.made_s
    exact = clips[0]
    assert exact.made_s == 3  # 15, 120 and 15 frames, of which the first must last for one look
    assert exact.steady_s == 2 - 15 / 75


def test_the_table_shows_medians_of_each_way() -> None:
    clips = [
        Heard(streaming, first, 2 * first, 10.0, 4.0)
        for streaming in Streaming
        for first in (1.0, 9.0, 2.0)
    ]
    lines = table(clips).splitlines()
    assert lines[2:] == [
        "| `exact` | 2.00 | 4.00 | 10.00 | 2.50 |",
        "| `low_latency` | 2.00 | 4.00 | 10.00 | 2.50 |",
    ]
