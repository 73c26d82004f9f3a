"""One request from text to sound, without Discord.

Knows the synthesis client, and how far a job is. Does not know who asked or where the clip goes:
whoever watches is told a `Status` at each change.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from synth.audio import Paces, Timeline
from synth.client import Job, Manner, SynthClient
from synth.protocol import (
    Accepted,
    Audio,
    Done,
    HistoryPrompt,
    JobEvent,
    Progress,
    Sampling,
    Stage,
    Timings,
)

T = TypeVar("T")

# How to await something that comes from outside, such as a job's next event.
Waiting = Callable[[Coroutine[Any, Any, Any]], Awaitable[Any]]


@dataclass(frozen=True, kw_only=True)
class SpeechRequest:
    """A text on behalf of `user`. `voice` is one of the loaded model's, or None.

    cast: the voices of those who speak in a dialogue. live: the sound is wanted as it comes; else
    whole utterances, equally loud. most_s: where the clip is cut.
    """

    job_id: str
    user: str
    text: str
    voice: str | None
    sampling: Sampling
    cast: Mapping[str, str] = field(default_factory=dict[str, str])
    live: bool = False
    most_s: float | None = None


@dataclass(frozen=True)
class Status:
    """Where a job stands. `position`: 0 is being worked on, 1 is next. `fraction` of all work."""

    position: int
    stage: Stage | None = None
    fraction: float = 0.0
    eta_s: float | None = None


@dataclass(frozen=True, eq=False)
class Clip:
    """What was spoken: samples (N,) float32 mono at `sample_rate` Hz.

    voice: whose it is, but for a dialogue. cast: who speaks that, and with which; "": the rest.
    """

    samples: npt.NDArray[np.float32]
    sample_rate: int
    voice: str | None
    seed: int
    audio_s: float
    timings: Timings
    history: HistoryPrompt
    notes: tuple[str, ...]
    cast: Mapping[str, str | None] = field(default_factory=dict[str, str | None])


class Watcher(Protocol):
    """Who wants to see a job move."""

    def update(self, status: Status) -> None:
        """Something changed."""
        ...

    @property
    def due_s(self) -> float | None:
        """Seconds until an update that was held back may be shown; None: nothing is held back."""
        ...

    def flush(self) -> None:
        """Show what was held back."""
        ...


class Listener(Protocol):
    """Who wants the sound while the clip is still being made."""

    def hear(self, samples: npt.NDArray[np.float32], needed_s: float) -> None:
        """The next samples; `needed_s` seconds must have come before any can be played without
        running dry (`synth.prefill`). Must neither wait nor raise.
        """
        ...


async def plainly(awaitable: Coroutine[Any, Any, Any]) -> Any:
    return await awaitable


class Speech:
    """Starts jobs, and learns from each how well sound keeps up with being played.

    waiting: how a job's events are awaited; for a host that must know of such waits.
    """

    def __init__(
        self,
        synth: SynthClient,
        *,
        waiting: Waiting = plainly,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.paces = Paces()
        self.clock = clock
        self._synth = synth
        self._waiting = waiting

    def submit(self, request: SpeechRequest) -> "Utterance":
        """Put the request in the queue; raises as `SynthClient.speak` does."""
        assert self._synth.info is not None, "the client is ready before requests come"
        job = self._synth.speak(
            request.text,
            user=request.user,
            manner=Manner(
                voice=request.voice,
                sampling=request.sampling,
                live=request.live,
                most_s=request.most_s,
            ),
            cast=request.cast,
            job_id=request.job_id,
        )
        return Utterance(job, request, self._synth.info.sample_rate, self)

    async def wait(self, awaitable: Coroutine[Any, Any, T]) -> T:
        return await self._waiting(awaitable)


class Utterance:
    """A job in the queue or in the works. Exactly one caller runs it."""

    def __init__(self, job: Job, request: SpeechRequest, sample_rate: int, speech: Speech) -> None:
        self.sample_rate = sample_rate
        self._job = job
        self._request = request
        self._speech = speech
        self._chunks: list[npt.NDArray[np.float32]] = []
        self._timeline = Timeline(speech.clock())

    @property
    def position(self) -> int | None:
        """1 is next, 0 is being worked on, None is over."""
        return self._job.position

    def cancel(self) -> None:
        """Call the job off; whoever runs it gets JobCancelled."""
        self._job.cancel()

    def played(self, seconds: float) -> None:
        """Tell the engine how much of the clip has been heard."""
        self._job.played(seconds)

    async def run(
        self,
        watcher: Watcher,
        started: Callable[[], Awaitable[None]] | None = None,
        listener: Listener | None = None,
    ) -> Clip:
        """Follow the job to its end. Raises what `synth.errors` names; leaving cancels the job.

        started: awaited once, when the job gets its slot. listener: gets the sound as it comes.
        """
        clip: Clip | None = None
        async with self._job:
            while (event := await self._event(watcher)) is not None:
                match event:
                    case Accepted(position=position):
                        if position == 0:
                            self._timeline = Timeline(self._speech.clock())
                        if position == 0 and started:
                            await started()
                            started = None
                        watcher.update(Status(position, eta_s=self._job.eta_s))
                    case Progress(stage=stage, whole=whole):
                        watcher.update(Status(0, stage, whole or 0.0, self._job.eta_s))
                    case Audio(samples=samples):
                        self._heard(samples, listener)
                    case Done():
                        clip = self._clip(event)
                    case _:
                        pass
        assert clip is not None, "a job ends in Done or an exception"
        return clip

    def _heard(self, samples: npt.NDArray[np.float32], listener: Listener | None) -> None:
        self._chunks.append(samples)
        self._timeline.came(self._speech.clock(), len(samples) / self.sample_rate)
        if listener is not None:
            paces, characters = self._speech.paces, len(self._request.text)
            listener.hear(samples, paces.needed_s(characters, self._timeline))

    async def _event(self, watcher: Watcher) -> JobEvent | None:
        """The next event, None after the last; until it comes, what the watcher held back is shown
        when it is due.
        """
        pending = asyncio.create_task(self._speech.wait(_next(self._job)))
        try:
            while not pending.done():
                due_s = watcher.due_s
                await self._speech.wait(_settled(pending, due_s))
                if not pending.done() and due_s is not None:
                    watcher.flush()
        except BaseException:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
            raise
        return pending.result()

    def _clip(self, done: Done) -> Clip:
        self._speech.paces.learn(len(self._request.text), self._timeline)
        samples = np.concatenate(self._chunks) if self._chunks else np.zeros(0, np.float32)
        return Clip(
            samples=samples,
            sample_rate=self.sample_rate,
            voice=self._request.voice,
            seed=done.seed,
            audio_s=done.audio_s,
            timings=done.timings,
            history=done.history,
            notes=done.notes,
            cast=self._job.cast,
        )


async def _next(events: AsyncIterator[JobEvent]) -> JobEvent | None:
    return await anext(events, None)


async def _settled(task: asyncio.Task[Any], timeout_s: float | None) -> None:
    await asyncio.wait({task}, timeout=timeout_s)
