import pytest

from synth.estimate import Estimator, wait_s


def test_nothing_is_expected_before_anything_was_measured() -> None:
    assert Estimator().work_s(100) is None


def test_work_grows_with_the_text_and_follows_the_last_jobs() -> None:
    estimator = Estimator()
    estimator.learn(100, 10.0)
    assert estimator.work_s(200) == pytest.approx(20.0)
    assert estimator.work_s(1) == estimator.work_s(20) == pytest.approx(2.0)
    for _ in range(32):
        estimator.learn(100, 1.0)
    assert estimator.work_s(100) == pytest.approx(1.0)  # the first is forgotten


def test_a_wait_is_what_the_jobs_ahead_leave_of_the_slots() -> None:
    assert wait_s([], [], 1) == 0.0
    assert wait_s([7.0], [], 1) == 7.0
    assert wait_s([7.0], [], 2) == 0.0
    assert wait_s([7.0, 3.0], [10.0], 2) == 7.0  # the waiting one takes the slot free at 3
    assert wait_s([7.0, 3.0], [2.0, 10.0], 2) == 7.0  # 3 -> 5, 5 -> 15, and the other at 7
