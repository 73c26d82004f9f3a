"""A worker that is too quick to watch, slowed down so that a status can be seen and Cancel pressed.

For the demo's random model alone, which is done before anyone can look. Knows the events of a job,
not what is in them.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from synth.client import Backend
from synth.protocol import Audio, Cancel, Done, Event, Progress, Ready, Request, Stage, Submit

_STAGES = tuple(Stage)


class PacedBackend:
    """Implements `synth.client.Backend` with another one, which must have one slot.

    job_s: what a job takes at least. Its events come spread over that time, and those of a
    cancelled job at once.
    """

    def __init__(
        self, backend: Backend, job_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._backend = backend
        self.job_s = job_s
        self._clock = clock
        self._begun = 0.0
        self._hurry = asyncio.Event()

    @property
    def slots(self) -> int:
        return self._backend.slots

    async def start(self) -> Ready:
        ready = await self._backend.start()
        assert ready.limits.slots == 1, "with more, one job's events would wait for another's"
        return ready

    def send(self, request: Request) -> None:
        match request:
            case Submit():
                self._begun = self._clock()
                self._hurry.clear()
            case Cancel():
                self._hurry.set()
            case _:
                pass
        self._backend.send(request)

    async def events(self) -> AsyncIterator[Event]:
        async for event in self._backend.events():
            left_s = self._begun + self.job_s * _share(event) - self._clock()
            if left_s > 0:
                try:
                    async with asyncio.timeout(left_s):
                        await self._hurry.wait()
                except TimeoutError:
                    pass
            yield event

    async def close(self, *, kill: bool = False) -> None:
        self._hurry.set()
        await self._backend.close(kill=kill)


def _share(event: Event) -> float:
    """How much of its job an event has behind it."""
    match event:
        case Progress(stage=stage, fraction=fraction):
            return (_STAGES.index(stage) + fraction) / len(_STAGES)
        case Audio() | Done():
            return 1.0
        case _:
            return 0.0
