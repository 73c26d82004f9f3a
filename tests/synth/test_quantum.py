"""How many decode steps are done at once."""

import pytest

from synth.quantum import Quantum


@pytest.mark.parametrize(
    ("least", "most", "step_s", "steps"),
    [(1, 4, 0.001, 4), (1, 4, 0.02, 2), (2, 4, 0.02, 2), (2, 8, 0.008, 6), (2, 4, 9.0, 2)],
)
def test_it_fits_the_time_in_multiples_of_the_least(
    least: int, most: int, step_s: float, steps: int
) -> None:
    quantum = Quantum(least, most)
    assert quantum.steps == least  # nothing is known yet
    quantum.took(4, 4 * step_s)
    assert quantum.steps == steps


def test_prefills_have_as_much_time_as_the_steps_before_them_and_one_at_least() -> None:
    quantum = Quantum(1, 4)
    assert not quantum.is_due  # nothing is prefilled yet
    quantum.prefilled(0.5)
    assert quantum.is_due  # how long steps take is not known yet
    quantum.took(4, 0.3)
    for _ in range(3):
        assert not quantum.is_due
        quantum.prefilled(0.101)
    assert quantum.is_due
    quantum.took(4, 0.3)
    assert not quantum.is_due
    quantum.prefilled(7.0)
    assert quantum.is_due
