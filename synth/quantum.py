"""How much decode work is done between two looks at the world.

That bounds how late an end, a cancel or another job is noticed: so much time, and no more steps
than that, for an end wastes those behind it. On a GPU each look costs a synchronization.
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
    """

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, max(least, most)
        self._step_s = math.inf

    @property
    def steps(self) -> int:
        fit = self._most
        if self._step_s * fit > _QUANTUM_S:
            fit = int(_QUANTUM_S / self._step_s)
        return max(self._least, fit // self._least * self._least)

    def took(self, steps: int, seconds: float) -> None:
        """Take note of how long the last `steps` of them took."""
        self._step_s = seconds / steps
