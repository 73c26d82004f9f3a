"""Which frames a window of the fine stage sees and predicts, when it can run, and what is final.

Two ways to go over a clip. `ExactWindows` are Bark's own: the last one moves back to end with the
clip, and windows predict again what earlier ones did, so little is final before the clip's length
is known. `LowLatencyWindows` go on as coarse codes come, as if the clip ended a little behind what
they hand out; that is not Bark's own computation. Arithmetic only: no tensor, no code.

Frames are counted from the beginning of the buffer where the word is `position`: history first.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from synth.vocab import ModelConfig


@dataclass(frozen=True)
class Window:
    """Positions [start, start + size) are seen, those from start + fill on are predicted."""

    start: int
    fill: int
    size: int


@dataclass(frozen=True)
class Turn:
    """One window's work. `number` keys its noise, `known` frames of the clip are looked at, and
    `final` of them will not change after it, whatever follows.
    """

    window: Window
    number: int
    known: int
    final: int
    again: bool = False  # whether what is predicted is forgotten first


class Windows(Protocol):
    """The windows of one clip, in order."""

    def next(self, frames: int, *, complete: bool) -> Turn | None:
        """The window to run next, None to wait for more of the clip.

        frames: how many have coarse codes; complete: there will be no others, and then there is a
        next window as long as `final(...)` is less than `frames`.
        """
        ...

    def took(self, turn: Turn) -> None:
        """That window has been predicted."""
        ...

    def final(self, frames: int, *, complete: bool) -> int:
        """Frames that will not change any more. Grows with `frames`."""
        ...


def plan_windows(frames: int, history: int, config: ModelConfig) -> tuple[Window, ...]:
    """Bark's windows over `history` frames, then `frames` new ones, then padding if short.

    The last one moves back to end with the clip and predicts up to a hop of frames again: the
    result depends on the whole utterance.
    """
    numbers = config.fine
    if not numbers.padded and history + frames < numbers.window:
        return (Window(0, history, min(numbers.window, _rounded(history + frames))),)
    padded = max(history + frames, numbers.window)
    loops = max(0, int(np.ceil((frames - (numbers.window - history)) / numbers.hop))) + 1
    windows: list[Window] = []
    for n in range(loops):
        start = min(n * numbers.hop, padded - numbers.window)
        fill = min(history + n * numbers.hop, padded - numbers.hop)
        windows.append(Window(start, fill - start, numbers.window))
    return tuple(windows)


def _rounded(positions: int) -> int:
    """Up to a multiple of 64: few shapes, for libraries that keep a plan for each."""
    return -(-positions // 64) * 64


class ExactWindows:
    """Bark's windows, each as soon as it can only come out one way."""

    def __init__(self, history: int, config: ModelConfig) -> None:
        self._config = config
        self._history = history
        self._done = 0

    def next(self, frames: int, *, complete: bool) -> Turn | None:
        number = self._done
        if complete:
            windows = plan_windows(frames, self._history, self._config)
            if number == len(windows):
                return None
            window = windows[number]
        elif self._stands_still(frames):
            numbers = self._config.fine
            window = Window(number * numbers.hop, self._history, numbers.window)
        else:
            return None
        return Turn(window, number, frames, self._final(number + 1, frames, complete))

    def _stands_still(self, frames: int) -> bool:
        """Whether the next window lies where it does however long the clip gets."""
        numbers = self._config.fine
        start = self._done * numbers.hop
        return self._history + frames >= start + max(numbers.window, self._history + numbers.hop)

    def took(self, turn: Turn) -> None:
        self._done += 1

    def final(self, frames: int, *, complete: bool) -> int:
        return self._final(self._done, frames, complete)

    def _final(self, done: int, frames: int, complete: bool) -> int:
        """Frames in front of all that the windows after the first `done` predict again."""
        if not done:
            return 0
        if complete and done == len(plan_windows(frames, self._history, self._config)):
            return frames
        # The next begins at its regular place, or a hop before the end of a clip that is no shorter
        # than what there is of it.
        numbers = self._config.fine
        padded = max(self._history + frames, numbers.window)
        return min(self._history + done * numbers.hop, padded - numbers.hop) - self._history


@dataclass(frozen=True)
class Lag:
    """How far low latency goes at a time, in frames.

    look_ahead: frames behind the last one handed out that are there already.
    padding: positions behind those that a window sees, at most to its own end. Bark's are padded
    to the full window, at the price of a full one; a short tail agrees as well with them.
    first, most: frames handed out by the first window, and by one at most; in between, each
    window hands out as many as all before it, so that there are few of them.
    """

    look_ahead: int
    first: int
    most: int
    padding: int


def default_lag(config: ModelConfig) -> Lag:
    """The lag in use: for Bark, the first window needs what the first coarse window makes."""
    hop, coarse = config.fine.hop, config.coarse.window // config.coarse.codebooks
    look_ahead = min(12, hop // 8)
    first = max(1, min(coarse - look_ahead - 1, hop // 8))
    return Lag(
        look_ahead=look_ahead, first=first, most=max(first, hop // 4), padding=min(32, hop // 4)
    )


class LowLatencyWindows:
    """Windows that go on as frames come; each frame is predicted once, or shortly after again.

    What comes out depends on the clip alone, not on when its frames came: a window looks at so many
    frames and no more. Its window lies where one of Bark's would that predicts the same frames.
    """

    def __init__(self, history: int, config: ModelConfig, lag: Lag) -> None:
        self._numbers = config.fine
        self._history = history
        self._lag = lag
        self._final = 0

    def next(self, frames: int, *, complete: bool) -> Turn | None:
        step = min(max(self._final, self._lag.first), self._lag.most)
        final = self._final + step
        known = final + self._lag.look_ahead
        if frames <= known:  # equal: only the end can tell whether this is the last window
            if not complete or self._final >= frames:
                return None
            known = final = frames
        over = max(0, self._history + known - self._numbers.window)
        number = -(-over // self._numbers.hop)
        start = number * self._numbers.hop
        size = min(self._history + known - start + self._lag.padding, self._numbers.window)
        window = Window(start, self._history + self._final - start, size)
        return Turn(window, number, known, final, again=True)

    def took(self, turn: Turn) -> None:
        self._final = turn.final

    def final(self, frames: int, *, complete: bool) -> int:
        return self._final
