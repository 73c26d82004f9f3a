"""How long a job will take, from those that were measured. Knows nothing of queues or workers."""

import heapq
from collections import deque
from collections.abc import Iterable

from synth.protocol import Progress, Stage, Timings

_REMEMBERED = 32  # finished jobs: enough to be steady, few enough to follow a change of load
_SHORTEST = 20  # characters: even one word costs a prefill, a fine window and a decode


class Estimator:
    """Seconds of work by length of text, as measured over the last finished jobs."""

    def __init__(self) -> None:
        self._past: deque[tuple[int, float]] = deque(maxlen=_REMEMBERED)

    def learn(self, characters: int, work_s: float) -> None:
        self._past.append((max(characters, _SHORTEST), work_s))

    def work_s(self, characters: int) -> float | None:
        """Expected seconds in a slot, or None before anything was measured."""
        if not self._past:
            return None
        per_character = sum(s for _, s in self._past) / sum(n for n, _ in self._past)
        return per_character * max(characters, _SHORTEST)


class StageShares:
    """How the work on an utterance is shared out among the stages, as measured."""

    def __init__(self) -> None:
        # Until one has been measured: a random Bark of the small size on a CPU.
        self._shares = dict(zip(Stage, (0.35, 0.45, 0.15, 0.05), strict=True))

    def fraction(self, progress: Progress) -> float:
        """How much of all work on the utterance is behind."""
        before = 0.0
        for stage, share in self._shares.items():
            if stage is progress.stage:
                return before + share * progress.fraction
            before += share
        return before

    def learn(self, timings: Timings) -> None:
        if timings.work_s <= 0:
            return
        measured = (timings.semantic_s, timings.coarse_s, timings.fine_s, timings.codec_s)
        for stage, seconds in zip(Stage, measured, strict=True):
            self._shares[stage] += 0.3 * (seconds / timings.work_s - self._shares[stage])


def wait_s(running: Iterable[float], waiting: Iterable[float], slots: int) -> float:
    """Seconds until a slot is free for whoever comes after all of `waiting`.

    running: seconds left of each job in a slot; waiting: seconds each job will take, in order.
    """
    ends = list(running)
    ends += [0.0] * (slots - len(ends))
    heapq.heapify(ends)
    for work in waiting:
        heapq.heapreplace(ends, ends[0] + work)
    return ends[0]
