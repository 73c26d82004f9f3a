"""When a clip may begin: it never runs dry while its engine does as expected, and never waits in
vain. Time is simulated.
"""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from synth.prefill import HOST_S, KEEPS_UP_RTF, RESERVE, Pace, Paces, Timeline, needed_s

Arrivals = list[tuple[float, float]]  # when a piece comes, and how many seconds of sound it is

rtfs = st.floats(0.02, 0.89)
sizes = st.lists(st.floats(0.02, 3.0), min_size=1, max_size=60)
lateness = st.lists(st.floats(0.0, 1.0), min_size=60, max_size=60)


def arrivals(rtf: float, pieces: list[float], late_s: list[float], first_s: float) -> Arrivals:
    """A job that makes sound evenly, with each piece late by so much, in order."""
    now, made, found = first_s, 0.0, []
    for size, late in zip(pieces, late_s, strict=False):
        made += size
        now = max(now, first_s + rtf * made + late)
        found.append((now, size))
    return found


def timeline_of(job: Arrivals) -> Timeline:
    timeline = Timeline(0.0)
    for now, size in job:
        timeline.came(now, size)
    return timeline


def runs_dry(job: Arrivals, begins: float) -> bool:
    """Whether what plays from `begins` on ever has to wait for a piece."""
    made = 0.0
    for now, size in job:
        if now > begins + made + 1e-9:
            return True
        made += size
    return False


def beginning(job: Arrivals, paces: Paces, characters: int = 50) -> float:
    """when it is let play: with the piece that makes it enough, or when it is whole."""
    timeline = Timeline(0.0)
    for now, size in job:
        timeline.came(now, size)
        if timeline.made_s >= paces.needed_s(characters, timeline):
            return now
    return job[-1][0]


@given(rtfs, sizes, lateness, st.floats(0, 10))
def test_no_clip_runs_dry_that_comes_at_the_pace_expected(
    rtf: float, pieces: list[float], late_s: list[float], first_s: float
) -> None:
    job = arrivals(rtf, pieces, late_s, first_s)
    needed = needed_s(Pace(rtf, timeline_of(job).lag_s))
    made = 0.0
    for now, size in job:
        made += size
        if made >= needed:
            assert not runs_dry(job, now)


@given(rtfs, sizes, lateness, st.integers(0, 59), st.floats(0, 10))
def test_no_clip_runs_dry_after_one_like_it(
    rtf: float, pieces: list[float], late_s: list[float], latest: int, first_s: float
) -> None:
    """The engine was seen once at its worst: one piece as late as any, after none that was."""
    biggest = [max(pieces)] * 4
    seen = arrivals(rtf, biggest, [0.0, 0.0, max(late_s), 0.0], first_s)
    paces = Paces()
    paces.learn(50, timeline_of(seen))
    assume(paces.expected(50) is not None)
    job = arrivals(rtf, pieces, late_s, first_s)
    begins = beginning(job, paces)
    assert not runs_dry(job, begins)


@given(st.floats(0.02, 0.89), st.floats(0.01, 5.0), st.floats(0.02, 1.0))
def test_no_wait_is_longer_than_the_pace_asks_for(rtf: float, lag_s: float, size: float) -> None:
    """Begun with less than the lag, a clip that comes just as expected does run dry; what is waited
    for on top is the reserve, and no more.
    """
    needed = needed_s(Pace(rtf, lag_s))
    assert needed == pytest.approx(RESERVE * lag_s + HOST_S)
    made = lag_s * 0.99
    job = [(0.0, made), (lag_s, size)]  # allowed: nothing for lag_s seconds
    assert timeline_of(job).lag_s <= lag_s + 1e-9
    assert runs_dry(job, 0.0)


@given(st.floats(KEEPS_UP_RTF, 50), sizes, lateness)
def test_an_engine_that_does_not_keep_up_is_waited_for(
    rtf: float, pieces: list[float], late_s: list[float]
) -> None:
    """Known or unknown, nothing plays before the clip is whole."""
    job = arrivals(rtf, pieces, late_s, 0.0)
    paces = Paces()
    assert beginning(job, paces) == job[-1][0]
    paces.learn(50, timeline_of(job))
    assert beginning(job, paces) == job[-1][0]


def test_an_unknown_engine_shows_by_itself_that_it_keeps_up() -> None:
    job = arrivals(0.4, [0.2] * 50, [0.0] * 50, 0.0)
    begins = beginning(job, Paces())
    assert 0.2 < begins < 1.0
    assert not runs_dry(job, begins)


def test_an_unknown_engine_that_is_slow_to_begin_has_to_make_up_for_it() -> None:
    quick = beginning(arrivals(0.1, [0.2] * 50, [0.0] * 50, 1.0), Paces())
    slow = arrivals(0.1, [0.2] * 50, [0.0] * 50, 20.0)
    assert quick < 1.5
    assert beginning(slow, Paces()) == slow[-1][0]


def test_several_utterances_are_not_begun_on_the_strength_of_one() -> None:
    """The first came in a moment, and the next only after a while."""
    text, paces = 500, Paces()
    job = arrivals(0.3, [4.0, 12.0, 12.0], [0.0] * 3, 0.0)
    pieces = [(now + 0.01 * i, size / 8) for now, size in job for i in range(8)]
    begins = beginning(pieces, paces, text)
    assert not runs_dry(pieces, begins)
    paces.learn(50, timeline_of(pieces[:8]))  # short ones say nothing of it
    assert paces.expected(text) is None
    assert beginning(pieces, paces, text) == begins


def test_a_job_that_is_slower_than_those_before_it_is_waited_for_longer() -> None:
    paces = Paces()
    paces.learn(50, timeline_of(arrivals(0.5, [0.2] * 20, [0.0] * 20, 0.5)))
    even = arrivals(0.5, [0.2] * 20, [0.0] * 20, 0.5)
    late = arrivals(0.5, [0.2] * 20, [0.0, 0.0, 1.0, *[0.0] * 17], 0.5)
    assert beginning(late, paces) > beginning(even, paces)


def test_nothing_is_learnt_from_a_job_without_sound() -> None:
    paces = Paces()
    paces.learn(50, Timeline(0.0))
    assert paces.expected(50) is None
    assert math.isinf(needed_s(None))
