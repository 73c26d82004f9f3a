"""How much decode work is done between two looks at the world, and how much is prefilled between.

The first bounds how late an end, a cancel or another job is noticed: so much time, and no more
steps than that, for an end wastes those behind it. On a GPU each look costs a synchronization.
"""

import math

import torch

_QUANTUM_S = 0.05
_MOST_STEPS = {"cpu": 4, "cuda": 16, "mps": 8}


def most_steps(device: torch.device) -> int:
    """Decode steps between two looks, at most."""
    return _MOST_STEPS[device.type]


class Quantum:
    """How many decode steps of a stage make a quantum, by how long the last ones took.

    `least` is what the stage can do at once, and every quantum is a multiple of it.

    Prefills get as much time as decode steps, and one at least between two quanta. Were all that
    wait done first, those in the middle of a window would stand still for all who begin one. But
    where a prefill takes no longer than a step or two, one by one would leave most slots waiting
    for theirs while a few decode, and a step takes a GPU as long for a few as for all.
    """

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, max(least, most)
        self._step_s = math.inf
        self._took_s = 0.0  # the last quantum
        self._prefilled_s: float | None = None  # since then; None: nothing was

    @property
    def steps(self) -> int:
        fit = self._most
        if self._step_s * fit > _QUANTUM_S:
            fit = int(_QUANTUM_S / self._step_s)
        return max(self._least, fit // self._least * self._least)

    def took(self, steps: int, seconds: float) -> None:
        """Take note of how long the last `steps` of them took."""
        self._step_s = seconds / steps
        self._took_s, self._prefilled_s = seconds, None

    def prefilled(self, seconds: float) -> None:
        """Take note of how long a prefill took. On a GPU it is seen late: by whatever waits for
        the card next, be it the next prefill or the next quantum.
        """
        self._prefilled_s = (self._prefilled_s or 0.0) + seconds

    @property
    def is_due(self) -> bool:
        """Whether it is the decode steps' turn where a prefill waits as well."""
        return self._prefilled_s is not None and self._prefilled_s >= self._took_s
