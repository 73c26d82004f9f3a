"""Fairness as properties: whoever comes and goes, users take turns and nobody is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synth.fair_queue import FairQueue

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.sampled_from("abcd")),
        st.tuples(st.just("pop"), st.just("")),
        st.tuples(st.just("remove"), st.integers(0, 20).map(str)),
        st.tuples(st.just("front"), st.sampled_from("abcd")),
    ),
    max_size=60,
)


@given(ACTIONS)
def test_nothing_is_lost_or_doubled_and_the_order_shown_is_the_order_given(
    actions: list[tuple[str, str]],
) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    inside: set[tuple[str, int]] = set()
    for number, (action, what) in enumerate(actions):
        order = list(queue)
        assert set(order) == inside and len(order) == len(queue) == len(inside)
        assert queue.peek() == (order[0] if order else None)
        if action == "push":
            queue.push(what, (what, number))
            inside.add((what, number))
        elif action == "front":
            queue.push_front(what, (what, number))
            inside.add((what, number))
            assert queue.peek() == (what, number)
        elif action == "pop" and order:
            assert queue.pop() == order[0]
            inside.remove(order[0])
            assert list(queue) == order[1:]
        elif action == "remove" and int(what) < len(order):
            job = order[int(what)]
            assert queue.remove(job[0], job)
            assert not queue.remove(job[0], job)
            inside.remove(job)
    order = list(queue)
    assert [queue.pop() for _ in order] == order and len(queue) == 0


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40))
def test_the_order_shown_is_what_popping_gives(users: list[str]) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for number, user in enumerate(users):
        queue.push(user, (user, number))
    shown = list(queue)
    assert [queue.pop() for _ in shown] == shown
    # A user's own jobs stay in order, and the k-th job of each comes before anybody's k+1-th.
    rounds = {user: 0 for user in users}
    seen: list[int] = []
    for user in "abc":
        own = [number for who, number in shown if who == user]
        assert own == sorted(own)
    for who, _ in shown:
        rounds[who] += 1
        seen.append(rounds[who])
    assert seen == sorted(seen)


def test_a_flood_by_one_user_and_a_stream_of_newcomers_starve_nobody() -> None:
    queue: FairQueue[str] = FairQueue()
    for n in range(50):
        queue.push("flood", f"flood {n}")
    queue.push("patient", "patient")
    assert [queue.pop(), queue.pop()] == ["flood 0", "patient"]
    before = list(queue).index("flood 1")
    for n in range(20):  # somebody new arrives before each turn
        queue.push(f"new {n}", f"new {n}")
        assert list(queue).index("flood 1") == before  # a newcomer never overtakes a user's next
        if queue.pop() == "flood 1":
            return
        before -= 1
    pytest.fail("the flood starved")


def test_an_empty_queue_says_so() -> None:
    queue: FairQueue[str] = FairQueue()
    assert queue.peek() is None and len(queue) == 0
    with pytest.raises(IndexError):
        queue.pop()
    assert not queue.remove("a", "job")


@given(
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=30),
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 5)),
)
def test_whoever_has_fewer_slots_is_next_and_the_order_shown_is_the_order_given(
    users: list[str], held: dict[str, int]
) -> None:
    """As slots are filled: each job that gets one counts for its user from then on."""
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for number, user in enumerate(users):
        queue.push(user, (user, number))
    shown = list(queue.in_order(held))
    has = dict(held)
    for job in shown:
        waiting = {user for user, _ in queue}
        assert queue.peek(has) == job
        assert queue.pop(has) == job
        assert has.get(job[0], 0) == min(has.get(user, 0) for user in waiting)
        has[job[0]] = has.get(job[0], 0) + 1
    assert len(queue) == 0


def test_the_next_piece_comes_before_the_users_own_others_only() -> None:
    queue: FairQueue[str] = FairQueue()
    for user, job in (("a", "a1"), ("b", "b1"), ("a", "a2")):
        queue.push(user, job)
    queue.push("b", "b0", ahead=True)
    assert list(queue) == ["a1", "b0", "a2", "b1"]
    assert list(queue.in_order({"a": 2})) == ["b0", "b1", "a1", "a2"]
