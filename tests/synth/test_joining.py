"""Utterances joined: the same however the sound comes in, silence off, pauses on, and no clicks."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.joining import FADE_S, Joiner, Trim

RATE = 24_000
FADE = round(FADE_S * RATE)
Samples = npt.NDArray[np.float32]


def tone(seconds: float, level: float = 0.3) -> Samples:
    times = np.arange(round(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * 220 * times)).astype(np.float32)


def silence(seconds: float) -> Samples:
    return np.full(round(seconds * RATE), 1e-5, np.float32)


def pieces_of(samples: Samples, cuts: list[int]) -> list[Samples]:
    places = sorted({cut % (len(samples) + 1) for cut in cuts})
    return np.split(samples, places)


def join(*utterances: tuple[list[Samples], float], trim: bool = True) -> Samples:
    joiner, out = Joiner(RATE, trim=trim), []
    for number, (chunks, pause_s) in enumerate(utterances):
        joiner.begin()
        out += [joiner.push(chunk) for chunk in chunks]
        out.append(joiner.end(pause_s, last=number == len(utterances) - 1))
    return np.concatenate(out)


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from([0.001, 0.004, 0.03, 0.2]), min_size=1, max_size=5),
            st.sampled_from([0.0, 0.25]),
        ),
        min_size=1,
        max_size=4,
    ),
    st.lists(st.integers(0, 40_000), max_size=6),
    st.booleans(),
)
def test_the_clip_does_not_depend_on_how_its_sound_came_in(
    plan: list[tuple[list[float], float]], cuts: list[int], trim: bool
) -> None:
    whole = []
    for lengths, pause_s in plan:
        parts = [(silence if n % 2 else tone)(length) for n, length in enumerate(lengths)]
        whole.append((np.concatenate(parts), pause_s))
    at_once = join(*[([samples], pause_s) for samples, pause_s in whole], trim=trim)
    in_pieces = join(
        *[(pieces_of(samples, cuts), pause_s) for samples, pause_s in whole], trim=trim
    )
    np.testing.assert_array_equal(at_once, in_pieces)
    assert at_once.dtype == np.float32


def test_one_utterance_without_silence_passes_untouched() -> None:
    samples = tone(0.5)
    np.testing.assert_array_equal(join(([samples], 0.0)), samples)
    quiet = np.concatenate([silence(1.0), samples, silence(1.0)])
    np.testing.assert_array_equal(join(([quiet], 0.0), trim=False), quiet)


def test_silence_at_both_ends_goes_but_for_a_breath() -> None:
    inside = np.concatenate([tone(0.5), silence(0.8), tone(0.5)])
    joined = join(([np.concatenate([silence(2.0), inside, silence(3.0)])], 0.0))
    assert len(joined) / RATE == pytest.approx(1.8 + 0.05 + 0.12, abs=0.02)
    np.testing.assert_array_equal(joined[3000:30_000], inside[1800:28_800])
    assert abs(joined[0]) < 1e-5 and abs(joined[-1]) < 1e-5


def test_what_was_taken_off_is_told() -> None:
    joiner = Joiner(RATE)
    joiner.begin()
    joiner.push(np.concatenate([silence(1.0), tone(0.5), silence(1.0)]))
    joiner.end(0.0, last=True)
    assert joiner.trimmed_s == pytest.approx(2.0 - 0.17, abs=0.02)


def test_an_utterance_of_silence_stays_as_it_is() -> None:
    np.testing.assert_array_equal(join(([silence(1.0)], 0.0)), silence(1.0))
    trim = Trim(RATE)
    assert len(trim.push(silence(0.5))) == 0 and len(trim.finish()) == RATE // 2


def test_a_pause_is_as_long_as_asked_and_nothing_clicks() -> None:
    joined = join(([tone(0.503)], 0.25), ([tone(0.502)], 0.0))
    assert len(joined) == round(0.503 * RATE) + round(0.25 * RATE) + round(0.502 * RATE)
    between = joined[round(0.503 * RATE) : round(0.753 * RATE)]
    assert not between.any()
    step = np.abs(np.diff(tone(0.5))).max()
    assert np.abs(np.diff(joined)).max() < step * 1.2


def test_without_a_pause_the_ends_are_mixed() -> None:
    joined = join(([tone(0.5)], 0.0), ([tone(0.5)], 0.0))
    assert len(joined) == RATE - FADE
    assert np.abs(joined).max() <= 0.61
    assert np.abs(np.diff(joined)).max() < np.abs(np.diff(tone(0.5))).max() * 2


def test_gain_is_for_one_utterance() -> None:
    joiner, out = Joiner(RATE), []
    for gain in (1.0, 2.0):
        joiner.begin(gain)
        out += [joiner.push(tone(0.5)), joiner.end(0.1, last=gain == 2.0)]
    joined = np.concatenate(out)
    assert np.abs(joined[: RATE // 2]).max() == pytest.approx(0.3, abs=0.01)
    assert np.abs(joined[-RATE // 3 :]).max() == pytest.approx(0.6, abs=0.01)
