"""One job as its reader sees it: an iterator of events that cancels the job when it is left."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol, Self

from synth.errors import Busy, EngineFailed, InvalidRequest, JobCancelled, JobTimeout, SynthError
from synth.protocol import Accepted, Audio, Done, Failed, Played, Progress, Reason

SpokenEvent = Accepted | Progress | Audio | Done  # Failed is raised


class Desk(Protocol):
    """What a job asks of the client that took it."""

    def position(self, job_id: str) -> int | None: ...

    def eta_s(self, job_id: str) -> float | None: ...

    def cancel(self, job_id: str) -> None: ...

    def played(self, message: Played) -> None: ...


class Reader(Protocol):
    """Who is told how a job goes: events, and at the end Done or an error."""

    def put(self, event: SpokenEvent) -> None: ...

    def fail(self, error: SynthError) -> None: ...


class Mailbox:
    """What the client tells a reader; bounded: only the newest place or progress is kept.

    Kept apart from `Job`, so that the client holds no reference to a job its reader has dropped.
    """

    def __init__(self) -> None:
        self._events: deque[SpokenEvent] = deque()
        self._error: SynthError | None = None
        self.closed = False  # its last word is in; somebody else may have the job's id by now
        self._changed = asyncio.Event()

    def put(self, event: SpokenEvent) -> None:
        if self.closed:
            return
        stale = isinstance(event, Accepted | Progress) and self._events
        if stale and type(self._events[-1]) is type(event):
            self._events[-1] = event
        else:
            self._events.append(event)
        self.closed = isinstance(event, Done)
        self._changed.set()

    def fail(self, error: SynthError) -> None:
        if not self.closed:
            self._error, self.closed = error, True
            self._changed.set()

    async def get(self) -> SpokenEvent:
        """The next event; then the error, once; then StopAsyncIteration for ever."""
        while not self._events and not self.closed:
            self._changed.clear()
            await self._changed.wait()
        if self._events:
            return self._events.popleft()
        error, self._error = self._error, None
        raise error or StopAsyncIteration


class Job:
    """Made by `SynthClient.submit`. Use it as

        async with client.submit(...) as job:
            async for event in job: ...

    Iterating gives Accepted, Progress, Audio and, last, Done; a failure is raised as an exception
    of `synth.errors`. Leaving the block, or dropping the job, cancels it and frees its slot. One
    reader at a time.
    """

    def __init__(
        self,
        job_id: str,
        user: str,
        mailbox: Mailbox,
        desk: Desk,
        cast: Mapping[str, str | None] | None = None,
    ) -> None:
        """cast: who speaks in a dialogue, in order, and the name of the voice, if it has one; "" is
        who reads the rest.
        """
        self._mailbox = mailbox
        self._desk = desk
        self.job_id = job_id
        self.user = user
        self.cast = dict(cast or {})
        # Bound now: a dropped job may be collected by another thread.
        self._call_loop: Callable[..., object] = asyncio.get_running_loop().call_soon_threadsafe

    @property
    def position(self) -> int | None:
        """1 is next, 0 is being worked on, None is over."""
        return self._desk.position(self.job_id)

    @property
    def eta_s(self) -> float | None:
        """Expected seconds until it is done; None when over, or before anything was measured."""
        return self._desk.eta_s(self.job_id)

    def cancel(self) -> None:
        """Call it off, from anywhere and any number of times; its reader gets JobCancelled."""
        if not self._mailbox.closed:
            self._desk.cancel(self.job_id)

    def played(self, seconds: float) -> None:
        """Tell how many seconds of this job its listener has heard."""
        self._desk.played(Played(self.job_id, seconds))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SpokenEvent:
        return await self._mailbox.get()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        if self._mailbox.closed:
            return
        try:
            self._call_loop(self._desk.cancel, self.job_id)
        except RuntimeError:
            pass  # the loop is closed, and the client with it


def as_error(failed: Failed, *, waiting: int, estimate_s: float | None) -> SynthError:
    """A Failed from the wire as the exception a caller catches."""
    match failed.reason:
        case Reason.INVALID:
            return InvalidRequest(failed.detail)
        case Reason.BUSY:
            return Busy(failed.detail, waiting=waiting, estimate_s=estimate_s)
        case Reason.CANCELLED:
            return JobCancelled(failed.detail)
        case Reason.TIMEOUT:
            return JobTimeout(failed.detail)
        case Reason.OUT_OF_MEMORY | Reason.CRASHED:
            return EngineFailed(failed.detail)
