"""What a stage brings to the training loop, and its batches made while the last one is used."""

import warnings
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from synth.nano.recipe import SEED

Batch = tuple[np.ndarray, ...]


class Stage(Protocol):
    """What a stage brings to the loop."""

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> nn.Module: ...

    def prepare(self, step: int, rng: np.random.Generator) -> Batch:
        """The arrays of a step; no tensor, for it may happen in another process."""
        ...

    def loss(self, step: int, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its parts, detached, to be read when somebody wants to know."""
        ...

    def validate(self) -> dict[str, float]: ...

    def refresh(self) -> bool:
        """Pick up data that appeared since; whether there was any."""
        ...

    def extra_state(self) -> dict[str, Any]:
        """What a checkpoint has to hold besides the model."""
        ...

    def load_extra(self, state: dict[str, Any]) -> None: ...


class Ahead:
    """Batches in the order of their steps, made by `workers` processes while the last one is used.

    With no workers each is made when it is asked for; the batches are the same.
    """

    def __init__(self, stage: Stage, step: int, workers: int) -> None:
        self._stage, self._next, self._workers = stage, step, workers
        self._pool: ProcessPoolExecutor | None = None
        self._waiting: deque[Future[Batch]] = deque()

    def get(self) -> Batch:
        """The next step's batch."""
        self._next += 1
        if not self._workers:
            return _prepare(self._stage, self._next - 1)
        if self._pool is None:
            # Forked, so that the corpus is shared; the children touch no device.
            self._pool = ProcessPoolExecutor(
                self._workers, get_context("fork"), initializer=_adopt, initargs=(self._stage,)
            )
        with warnings.catch_warnings():  # Python 3.12 warns of forking beside torch's threads
            warnings.simplefilter("ignore", DeprecationWarning)
            while len(self._waiting) < 2 * self._workers:
                step = self._next - 1 + len(self._waiting)
                self._waiting.append(self._pool.submit(_prepare_adopted, step))
        return self._waiting.popleft().result()

    def close(self) -> None:
        """Drop what was made ahead; the next `get` starts anew, with the corpus as it is then."""
        self._waiting.clear()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _prepare(stage: Stage, step: int) -> Batch:
    return stage.prepare(step, np.random.default_rng([SEED, step]))


_adopted: list[Stage] = []  # in a worker process, the stage it prepares batches for


def _adopt(stage: Stage) -> None:
    _adopted[:] = [stage]


def _prepare_adopted(step: int) -> Batch:
    return _prepare(_adopted[0], step)
