"""Who waits, and who is next: users take turns, each user's own jobs stay in order.

A plain data structure on the asking side; knows nothing of workers or of asyncio.
"""

import heapq
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")

_NONE: Mapping[str, int] = {}


class FairQueue(Generic[T]):
    """Jobs of several users: whoever has the fewest in work is next, and of those with as few, who
    has waited longest for a turn.

    A user who has nothing left gives up the turn and joins at the end with the next job, so that
    newcomers can neither be starved nor starve anybody: with U users waiting, each is served at
    least every U-th time, and one whose jobs hold slots already not before those who have none.

    held: how many jobs each user has in work.
    """

    def __init__(self) -> None:
        self._turns: dict[str, deque[T]] = {}  # in the order of turns; never an empty deque

    def __len__(self) -> int:
        return sum(map(len, self._turns.values()))

    def __iter__(self) -> Iterator[T]:
        return self.in_order()

    def in_order(self, held: Mapping[str, int] = _NONE) -> Iterator[T]:
        """Everybody in the order they will be popped, if nothing else changes."""
        users = {user: list(jobs) for user, jobs in self._turns.items()}
        turns = [(held.get(user, 0), turn, user, 0) for turn, user in enumerate(users)]
        heapq.heapify(turns)
        next_turn = len(turns)
        while turns:
            holds, _, user, number = heapq.heappop(turns)
            yield users[user][number]
            if number + 1 < len(users[user]):
                heapq.heappush(turns, (holds + 1, next_turn, user, number + 1))
                next_turn += 1

    def push(self, user: str, job: T, *, ahead: bool = False) -> None:
        """Put a job in line; `ahead` of the user's own others, not of anybody else's."""
        jobs = self._turns.setdefault(user, deque())
        if ahead:
            jobs.appendleft(job)
        else:
            jobs.append(job)

    def push_front(self, user: str, job: T) -> None:
        """Put back a job that had its turn: the next of those whose users have as few in work."""
        jobs = self._turns.pop(user, deque[T]())
        jobs.appendleft(job)
        self._turns = {user: jobs, **self._turns}

    def peek(self, held: Mapping[str, int] = _NONE) -> T | None:
        return next(self.in_order(held), None)

    def pop(self, held: Mapping[str, int] = _NONE) -> T:
        """The next job; its user goes to the end of the line. Raises IndexError when empty."""
        if not self._turns:
            raise IndexError("nobody is waiting")
        user = min(self._turns, key=lambda user: held.get(user, 0))
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
