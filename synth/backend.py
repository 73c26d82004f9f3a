"""Where synthesis runs, behind one small interface: today a child process of this one.

A backend lives many lives, one after the other: `start` begins one, `events` tells what happens in
it, `close` ends it. It neither restarts itself nor judges what is late; `synth.supervisor` does
that for every kind of backend, so a worker on another machine needs these same five things only.
"""

import asyncio
import logging
import multiprocessing
import multiprocessing.resource_tracker
import queue
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import wait
from typing import Protocol

from synth import process
from synth.errors import EngineFailed, InvalidRequest
from synth.one_way import OneWayQueue
from synth.protocol import Event, Failed, Ready, Reason, Request, Shutdown
from synth.worker import WorkerSettings

logger = logging.getLogger(__name__)

_GRACE_S = 2.0  # from Shutdown to kill; Ctrl-C must end everything within 5 s


class WorkerLost(Exception):
    """A worker's life ended without being asked to; `detail` is safe to show."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Backend(Protocol):
    """A worker that takes as many jobs at a time as it has slots."""

    @property
    def slots(self) -> int:
        """How many jobs it can hold; 0 while it is not running."""
        ...

    async def start(self) -> Ready:
        """Begin a fresh life, with nothing left of the one before.

        Raises InvalidRequest when its settings can never work, EngineFailed when it did not come
        up this time.
        """
        ...

    def send(self, request: Request) -> None:
        """Hand over a request; never blocks. What a dead worker is sent is lost."""
        ...

    def events(self) -> AsyncIterator[Event]:
        """Everything the worker says after Ready. Raises WorkerLost when its life ends."""
        ...

    async def close(self, *, kill: bool = False) -> None:
        """End this life, at once with `kill`, else after a moment's grace. Never raises."""
        ...


class ProcessBackend:
    """A worker in a spawned child process."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._life: _Life | None = None
        self._slots = 0

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is one."""
        return self._life.pid if self._life else None

    async def start(self) -> Ready:
        await self.close()
        try:
            self._life = _Life(self._settings, asyncio.get_running_loop())
        except OSError as error:
            raise EngineFailed(f"The speech engine could not be started: {error}.") from error
        try:
            async with asyncio.timeout(self._settings.start_timeout_s):
                first = await self._life.next()
        except TimeoutError:
            await self.close(kill=True)
            raise EngineFailed(
                f"The speech engine was not ready after {self._settings.start_timeout_s:g} s."
            ) from None
        except WorkerLost as lost:
            raise EngineFailed(lost.detail) from lost
        match first:
            case Ready():
                self._slots = first.limits.slots
                return first
            case Failed(reason=Reason.INVALID, detail=detail):
                raise InvalidRequest(detail)
            case Failed(detail=detail):
                raise EngineFailed(detail)
            case _:
                raise EngineFailed("The speech engine did not introduce itself.")

    def send(self, request: Request) -> None:
        if self._life:
            self._life.send(request)

    async def events(self) -> AsyncIterator[Event]:
        assert self._life, "start() comes first"
        life = self._life
        while True:
            yield await life.next()

    async def close(self, *, kill: bool = False) -> None:
        life, self._slots = self._life, 0
        if life:
            await life.end(kill=kill)
            self._life = None


class _Life:
    """One child from spawn to its end, with a fresh queue and a thread for each direction."""

    def __init__(self, settings: WorkerSettings, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._inbox: asyncio.Queue[Event | WorkerLost] = asyncio.Queue()
        self._outbox: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._lost: WorkerLost | None = None
        self._ended = asyncio.Event()
        context = multiprocessing.get_context("spawn")
        requests, events = OneWayQueue(context), OneWayQueue(context)
        self._process = context.Process(
            target=process.main,
            args=(settings, requests, events),
            name="synthesis",
            daemon=True,  # a parent that ends without close() ends it too
        )
        try:
            with _sigint_held_back():
                self._process.start()
        except BaseException:
            requests.close()
            events.close()
            raise
        requests.write_here()
        events.read_here()
        self.pid = self._process.pid
        threads = (
            threading.Thread(target=self._write, args=(requests,), name="requests", daemon=True),
            threading.Thread(target=self._read, args=(events,), name="events", daemon=True),
        )
        for thread in threads:
            thread.start()

    def send(self, request: Request) -> None:
        self._outbox.put(request)

    async def next(self) -> Event:
        """The next event; raises WorkerLost after the last, as often as it is asked."""
        if self._lost and self._inbox.empty():
            raise self._lost
        item = await self._inbox.get()
        if isinstance(item, WorkerLost):
            raise item
        return item

    async def end(self, *, kill: bool) -> None:
        try:
            if not kill:
                self._outbox.put(Shutdown())
                if not await self._ends_soon():
                    logger.warning("The synthesis process did not end by itself")
        finally:
            if not self._ended.is_set():
                self._process.kill()
        if await self._ends_soon():
            self._process.close()
        else:  # in the kernel, in a driver's hands; it dies when that lets go
            logger.error("The synthesis process %s cannot be killed", self.pid)

    async def _ends_soon(self) -> bool:
        try:
            async with asyncio.timeout(_GRACE_S):
                await self._ended.wait()
        except TimeoutError:
            return False
        return True

    def _write(self, requests: OneWayQueue) -> None:
        """Thread: a child that reads nothing must not stop the loop, so the loop never writes."""
        with closing(requests):
            while (request := self._outbox.get()) is not None:
                try:
                    requests.put(request)
                except OSError:
                    return  # the reader tells the loop

    def _read(self, events: OneWayQueue) -> None:
        """Thread: hand over what the child says until it has said everything, then how it ended."""
        end = None
        with closing(events):
            try:
                # The sentinel as well: on Windows a child that died early can leave a handle open.
                while wait([events.reader, self._process.sentinel]) and not events.empty():
                    self._post(events.get())
            except (EOFError, OSError):
                pass
            except Exception:
                logger.exception("The synthesis process sent something that cannot be read")
                end = WorkerLost(Reason.CRASHED, "The speech engine said what cannot be read.")
                self._process.kill()
        self._process.join(_GRACE_S)  # its end of the queue is closed: it is ending, or wedged
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        self._outbox.put(None)
        self._post(end or _obituary(self._process.exitcode))

    def _post(self, item: Event | WorkerLost) -> None:
        try:
            self._loop.call_soon_threadsafe(self._receive, item)
        except RuntimeError:
            pass  # the loop is closed: nobody is left to tell

    def _receive(self, item: Event | WorkerLost) -> None:
        if isinstance(item, WorkerLost):
            self._lost = item
            self._ended.set()
        self._inbox.put_nowait(item)


def _obituary(exitcode: int | None) -> WorkerLost:
    if exitcode is not None and exitcode < 0:
        try:
            name = signal.Signals(-exitcode).name
        except ValueError:
            name = f"signal {-exitcode}"
        if name == "SIGKILL":
            return WorkerLost(
                Reason.CRASHED,
                "The speech engine was killed by the system, most likely for want of memory.",
            )
        return WorkerLost(Reason.CRASHED, f"The speech engine crashed ({name}).")
    return WorkerLost(Reason.CRASHED, f"The speech engine stopped (exit status {exitcode}).")


@contextmanager
def _sigint_held_back() -> Iterator[None]:
    """Spawn with SIGINT blocked: a Ctrl-C before the child can ignore it would kill it noisily.

    Nothing is lost here: a signal that comes meanwhile is delivered on the way out.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # The first spawn also starts multiprocessing's resource tracker, and that unblocks SIGINT.
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
