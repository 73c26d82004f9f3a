"""Time that only moves when a test says so."""

import asyncio
from collections.abc import Callable


class FakeClock:
    """A clock and the sleep that goes with it: pass both."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleeps: list[float] = []  # all that were ever asked for
        self._sleepers: list[tuple[float, asyncio.Event]] = []
        self._slept = asyncio.Event()

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self._slept.set()
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        sleeper = (self.now + seconds, asyncio.Event())
        self._sleepers.append(sleeper)
        try:
            await sleeper[1].wait()
        finally:
            self._sleepers.remove(sleeper)

    async def asleep(self, count: int = 1) -> None:
        """Wait until `count` sleeps have been asked for in all."""
        while len(self.sleeps) < count:
            self._slept.clear()
            await self._slept.wait()

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for due, event in self._sleepers:
            if due <= self.now:
                event.set()


async def loop_until(condition: Callable[[], object]) -> None:
    """Let the loop run until `condition` holds; for what nothing announces."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)
