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
