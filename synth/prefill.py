"""When a clip that is still being made may begin to play: as soon as it cannot run dry any more.

Knows moments and seconds of sound only, on a clock that is handed in. What is relied on is a
`Pace`: from any moment on, x seconds later at least (x - lag_s) / rtf seconds of sound more have
come, until all have. Played from the moment when `needed_s` of it have come, no such clip runs dry;
with less, one that comes as late as its pace allows does.
"""

import math
from collections import deque
from dataclasses import dataclass

KEEPS_UP_RTF = 0.9  # from here on a clip is not begun before it is whole
RESERVE = 1.25  # a job may be later than those before it by so much
HOST_S = 0.3  # what the way to the channel may be late by: the encoder, a busy event loop

_REMEMBERED = 8  # finished jobs: what their host did lately
_LONGER = 1.5  # times the longest text measured; beyond, how a job will go on is not known
_UTTERANCE_CHARACTERS, _UTTERANCE_S = 175, 15.0  # what is longer comes as several utterances
_FEWEST = 3  # pieces of sound, until a job tells its own pace


@dataclass(frozen=True)
class Pace:
    """How sound comes. `rtf`: seconds it takes to make one second; `lag_s`: the longest it is
    behind that.
    """

    rtf: float
    lag_s: float


def needed_s(pace: Pace | None) -> float:
    """Seconds of sound that must have come before they are played; inf: all there will be."""
    if pace is None or pace.rtf >= KEEPS_UP_RTF:
        return math.inf
    return RESERVE * pace.lag_s + HOST_S


class Timeline:
    """When one job's sound came. `began`: when the job got its slot."""

    def __init__(self, began: float) -> None:
        self._began = self._last = began
        self.made_s = 0.0  # seconds of sound that have come
        self.pieces = 0
        # Behind a line of KEEPS_UP_RTF, which bounds every faster one: one number, the less the
        # better the job keeps up, and as long as the clip itself when it does not.
        self.lag_s = 0.0
        self._earliest = math.inf

    def came(self, now: float, seconds: float) -> None:
        """Another piece of sound has come."""
        self.lag_s = max(self.lag_s, now - KEEPS_UP_RTF * self.made_s - self._earliest)
        self._last = now
        self.made_s += seconds
        self.pieces += 1
        self._earliest = min(self._earliest, now - KEEPS_UP_RTF * self.made_s)

    @property
    def took_s(self) -> float:
        """From the slot to the last piece of sound."""
        return self._last - self._began

    @property
    def pace(self) -> Pace | None:
        """What the job itself allows to expect, by all it took so far; None: too early to say."""
        if self.pieces < _FEWEST or not self.made_s:
            return None
        # The longest wait of a short while is not the longest there will be.
        return Pace(self.took_s / self.made_s, 2 * self.lag_s)


class Paces:
    """How the jobs of an engine went, and what that says of the next one."""

    def __init__(self) -> None:
        self._past: deque[tuple[int, Timeline]] = deque(maxlen=_REMEMBERED)

    def learn(self, characters: int, timeline: Timeline) -> None:
        """Remember a finished job; characters: of its text."""
        if timeline.made_s > 0:
            self._past.append((characters, timeline))

    def expected(self, characters: int) -> Pace | None:
        """The pace of a job with a text of so many characters; None when nothing like it was."""
        if not self._past or characters > _LONGER * max(length for length, _ in self._past):
            return None
        past = [timeline for _, timeline in self._past]
        rtf = sum(each.took_s for each in past) / sum(each.made_s for each in past)
        return Pace(rtf, max(each.lag_s for each in past))

    def needed_s(self, characters: int, timeline: Timeline) -> float:
        """Seconds of a job's sound that must have come before they are played, as it stands now."""
        before, own = self.expected(characters), timeline.pace
        if before is not None:
            # Slow by those before it, fast by its own: they were short, or the host was busy.
            rtf = before.rtf if own is None else min(before.rtf, own.rtf)
            return needed_s(Pace(rtf, max(before.lag_s, timeline.lag_s)))
        if own is not None and characters > _UTTERANCE_CHARACTERS:
            # The next utterance may come late, and all at once.
            own = Pace(own.rtf, max(own.lag_s, own.rtf * _UTTERANCE_S))
        return needed_s(own)
