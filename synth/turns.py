"""Who is served next where only one job can be: the emptiest listener first, then users in turn.

Bookkeeping over whoever is waiting; knows nothing of stages, slots or time.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

# Times that a job is passed over for each of those it waits among, before urgency stops counting:
# where one listener is always the emptiest, the others still get a third to a half of the work.
_PATIENCE = 2
_REMEMBERED = 64  # users; whoever was served before the last so many is as new


class Waiting(Protocol):
    """What has to be known of a job that waits."""

    @property
    def id(self) -> str: ...

    @property
    def user(self) -> str: ...

    @property
    def utterance(self) -> int: ...


J = TypeVar("J", bound=Waiting)


class Turns:
    """The order in which jobs get one kind of work.

    The job whose listener has the least audio in hand comes first; of equals, the user served least
    lately; of one user's, the earlier utterance. But among at most n jobs none is passed over more
    than 3 n - 1 times.
    """

    def __init__(self) -> None:
        self._passed: dict[str, int] = {}  # job -> how often, since it began to wait
        self._users: list[str] = []  # who was served, the latest last

    def pick(self, waiting: Sequence[J], buffered_s: Mapping[str, float]) -> J:
        """Choose one of `waiting` (at least 1) and take note of it.

        A job is to be among those waiting at each call until it is picked or gone. buffered_s: job
        id -> seconds of audio its listener has in hand; 0 for those that are not in it.
        """

        def passed(job: J) -> int:
            return self._passed.get(job.id, 0)

        def buffered(job: J) -> float:
            return buffered_s.get(job.id, 0.0)

        chosen = max(waiting, key=passed)
        if passed(chosen) < _PATIENCE * len(waiting):
            lately = {user: place for place, user in enumerate(self._users)}
            fronts = [
                min(
                    (job for job in waiting if job.user == user),
                    key=lambda job: (buffered(job), job.utterance, -passed(job)),
                )
                for user in dict.fromkeys(job.user for job in waiting)
            ]
            chosen = min(
                fronts, key=lambda job: (buffered(job), lately.get(job.user, -1), -passed(job))
            )
        self._passed = {job.id: passed(job) + 1 for job in waiting if job is not chosen}
        others = [user for user in self._users if user != chosen.user]
        self._users = [*others, chosen.user][-_REMEMBERED:]
        return chosen
