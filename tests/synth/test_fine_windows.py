"""The fine stage's windows by arithmetic alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.fine_windows import ExactWindows, LowLatencyWindows, Window, default_lag, plan_windows
from synth.nano.recipe import NANO
from synth.turbo import hurried
from synth.vocab import BARK, ModelConfig
from tests.synth.tiny import ODD, RANDOM

CONFIGS = st.sampled_from([BARK, NANO, ODD, RANDOM, hurried(BARK)])


@pytest.mark.parametrize(
    ("frames", "past", "windows"),
    [
        (1, 0, [(0, 0)]),
        (1024, 0, [(0, 0)]),
        (1025, 0, [(0, 0), (1, 511)]),
        (1154, 0, [(0, 0), (130, 382)]),
        (300, 512, [(0, 512)]),
        (1154, 512, [(0, 512), (512, 512), (642, 512)]),
        (1154, 100, [(0, 100), (230, 382)]),
    ],
)
def test_windows(frames: int, past: int, windows: list[tuple[int, int]]) -> None:
    assert plan_windows(frames, past, BARK) == tuple(Window(*w, 1024) for w in windows)


@given(config=CONFIGS, frames=st.integers(1, 1200), past=st.integers(0, 512), seen=st.data())
def test_exact_windows_that_run_early_are_those_of_the_whole_clip(
    config: ModelConfig, frames: int, past: int, seen: st.DataObject
) -> None:
    past = min(past, config.fine.hop)
    plan = plan_windows(frames, past, config)
    windows = ExactWindows(past, config)
    ran: list[Window] = []
    for known in sorted(seen.draw(st.lists(st.integers(0, frames), max_size=5))):
        while (turn := windows.next(known, complete=False)) is not None:
            ran.append(turn.window)
            windows.took(turn)
        final = windows.final(known, complete=False)
        untouched = [w.start + w.fill - past for w in plan[len(ran) :]]
        assert final <= min([known, *untouched])
    while (turn := windows.next(frames, complete=True)) is not None:
        ran.append(turn.window)
        windows.took(turn)
    assert tuple(ran) == plan and windows.final(frames, complete=True) == frames


@pytest.mark.parametrize(
    ("past", "known", "final"),
    [
        (512, 511, 0),
        (512, 512, 0),  # a window, but the clip may end here, and then nothing comes of it earlier
        (512, 513, 1),
        (512, 800, 288),
        (512, 1023, 511),
        (512, 1100, 588),
        (0, 1023, 0),
        (0, 1024, 512),
        (100, 1000, 488),
    ],
)
def test_what_is_final_while_bark_s_own_clip_goes_on(past: int, known: int, final: int) -> None:
    windows = ExactWindows(past, BARK)
    while (turn := windows.next(known, complete=False)) is not None:
        windows.took(turn)
    assert windows.final(known, complete=False) == final


@given(config=CONFIGS, frames=st.integers(1, 1200), past=st.integers(0, 512))
def test_low_latency_windows_are_few_and_go_on_from_each_other(
    config: ModelConfig, frames: int, past: int
) -> None:
    past, lag = min(past, config.fine.hop), default_lag(config)
    windows = LowLatencyWindows(past, config, lag)
    final = turns = 0
    while (turn := windows.next(frames, complete=True)) is not None:
        window = turn.window
        assert window.start + window.fill == past + final  # nothing that went out is touched
        context = config.fine.window - config.fine.hop - lag.most - lag.look_ahead
        assert window.fill >= min(past + final, context)
        assert past + turn.known <= window.start + window.size
        assert window.size <= config.fine.window
        assert turn.final > final and turn.known - turn.final in (0, lag.look_ahead)
        windows.took(turn)
        final, turns = turn.final, turns + 1
        assert windows.final(frames, complete=True) == final
    assert final == frames
    doubling = 2 + (lag.most // lag.first).bit_length()
    assert turns <= doubling + frames // lag.most


def test_low_latency_waits_for_one_frame_more_than_it_looks_at() -> None:
    """Or the last window would depend on whether the end was known when it ran."""
    windows = LowLatencyWindows(0, BARK, default_lag(BARK))
    assert windows.next(29, complete=False) is None
    turn = windows.next(30, complete=False)
    assert turn is not None and (turn.known, turn.final) == (29, 17)
    last = windows.next(29, complete=True)
    assert last is not None and (last.known, last.final) == (29, 29)
