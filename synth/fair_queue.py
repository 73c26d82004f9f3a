"""Who waits, and who is next: users take turns, each user's own jobs stay in order.

A plain data structure on the asking side; knows nothing of workers or of asyncio.
"""

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Jobs of several users, handed out round-robin over the users.

    A user who has nothing left gives up the turn and joins at the end with the next job, so that
    newcomers can neither be starved nor starve anybody: with U users waiting, each is served at
    least every U-th time.
    """

    def __init__(self) -> None:
        self._turns: dict[str, deque[T]] = {}  # in the order of turns; never an empty deque

    def __len__(self) -> int:
        return sum(map(len, self._turns.values()))

    def __iter__(self) -> Iterator[T]:
        """Everybody in the order they will be popped, if nothing changes."""
        turns = [list(jobs) for jobs in self._turns.values()]
        for round_ in range(max(map(len, turns), default=0)):
            for jobs in turns:
                if round_ < len(jobs):
                    yield jobs[round_]

    def push(self, user: str, job: T) -> None:
        self._turns.setdefault(user, deque()).append(job)

    def push_front(self, user: str, job: T) -> None:
        """Put back a job that had its turn: it is the next to be popped."""
        jobs = self._turns.pop(user, deque[T]())
        jobs.appendleft(job)
        self._turns = {user: jobs, **self._turns}

    def peek(self) -> T | None:
        return next(iter(self), None)

    def pop(self) -> T:
        """The next job; its user goes to the end of the line. Raises IndexError when empty."""
        if not self._turns:
            raise IndexError("nobody is waiting")
        user = next(iter(self._turns))
        jobs = self._turns.pop(user)
        job = jobs.popleft()
        if jobs:
            self._turns[user] = jobs
        return job

    def remove(self, user: str, job: T) -> bool:
        """Take `job` out wherever it stands; False when it was not waiting."""
        jobs = self._turns.get(user)
        if jobs is None or job not in jobs:
            return False
        jobs.remove(job)
        if not jobs:
            del self._turns[user]
        return True
