"""Whose turn it is, by itself: no pipeline, no model."""

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from synth.turns import Turns


@dataclass(frozen=True)
class Waiting:
    id: str
    user: str = ""
    utterance: int = 0


def order(waiting: Sequence[Waiting], **buffered_s: float) -> list[str]:
    """In which order jobs are served that go away then."""
    turns, left, served = Turns(), list(waiting), list[str]()
    while left:
        chosen = turns.pick(left, buffered_s)
        left.remove(chosen)
        served.append(chosen.id)
    return served


def test_the_emptiest_listener_comes_first() -> None:
    jobs = [Waiting("full", "a"), Waiting("some", "b"), Waiting("empty", "c")]
    assert order(jobs, full=3.0, some=0.4) == ["empty", "some", "full"]


def test_of_equals_users_take_turns_and_of_one_text_the_earlier_piece_comes_first() -> None:
    pieces = [Waiting(f"text.{n}", "long", n) for n in (3, 1, 2)]
    others = [Waiting("short", "b"), Waiting("brief", "c")]
    served = order([*pieces, *others])
    assert served == ["text.1", "short", "brief", "text.2", "text.3"]


def test_a_user_with_many_jobs_gets_no_more_than_one_with_one() -> None:
    turns = Turns()
    jobs = [Waiting("a1", "a"), Waiting("a2", "a"), Waiting("a3", "a"), Waiting("b", "b")]
    served = [turns.pick(jobs, {}).id for _ in range(40)]
    assert 18 <= served.count("b") <= 22
    assert all(served.count(f"a{n}") >= 4 for n in (1, 2, 3))


def test_urgency_leaves_the_others_a_third_at_least() -> None:
    """The one whose listener runs dry is served most, and the others share what is left."""
    turns = Turns()
    jobs = [Waiting(str(n), str(n)) for n in range(4)]
    buffered_s = {"1": 5.0, "2": 6.0, "3": 7.0}
    served = [turns.pick(jobs, buffered_s).id for _ in range(110)]
    assert 55 <= served.count("0") <= 76
    assert all(served.count(name) >= 10 for name in "123")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    most=st.integers(1, 6),
    steps=st.lists(
        st.tuples(
            st.integers(0, 2),  # newcomers
            st.booleans(),  # whether who is served goes away
            st.lists(st.sampled_from([0.0, 0.5, 9.0]), min_size=6, max_size=6),
            st.integers(0, 2),  # the newcomers' user
        ),
        max_size=120,
    ),
)
def test_nobody_is_passed_over_for_ever(
    most: int, steps: list[tuple[int, bool, list[float], int]]
) -> None:
    turns = Turns()
    waiting: list[Waiting] = []
    passed: dict[str, int] = {}
    made = 0
    for newcomers, leaves, buffers, user in steps:
        for _ in range(min(newcomers, most - len(waiting))):
            waiting.append(Waiting(f"j{made}", f"u{user}", made % 3))
            passed[f"j{made}"] = 0
            made += 1
        if not waiting:
            continue
        # The longest there have the fullest buffers: what urgency alone would starve.
        full = sorted(buffers, reverse=True)
        buffered_s = {job.id: full[place] for place, job in enumerate(waiting)}
        chosen = turns.pick(waiting, buffered_s)
        for job in waiting:
            passed[job.id] = 0 if job is chosen else passed[job.id] + 1
            assert passed[job.id] < 3 * most
        if leaves:
            waiting.remove(chosen)
