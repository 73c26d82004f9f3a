"""The child process: a request queue in, an event queue out, one model between them.

What it runs is loaded by `synth.worker`. The process ends, whatever it is doing, when its request
queue ends: that is how a child learns of its parent's death on every system. Ctrl-C is the parent's
to handle.
"""

import faulthandler
import importlib
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from synth.errors import InvalidRequest
from synth.one_way import OneWayQueue
from synth.protocol import Beat, Event, Failed, Reason, Request, Shutdown
from synth.scheduler import Scheduler, is_out_of_memory
from synth.worker import Engine, WorkerSettings

logger = logging.getLogger(__name__)

BEAT_S = 1.0  # a working child is never silent for longer, unless one step takes longer


def main(settings: WorkerSettings, requests: OneWayQueue, events: OneWayQueue) -> None:
    """The child from its first line to its last; does not return."""
    requests.read_here()
    events.write_here()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # the parent blocked it until it could be ignored
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if sys.stderr:  # there is none in a Windows program without a console
        faulthandler.enable()
    logging.basicConfig(
        level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    inbox: queue.SimpleQueue[Request] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, inbox), name="requests", daemon=True).start()

    def send(event: Event) -> None:
        try:
            events.put(event)
        except OSError:  # the parent is gone; `_listen` is about to see it too
            _end(0)

    try:
        engine = _start(settings)
    except InvalidRequest as error:
        send(Failed("", Reason.INVALID, str(error)))
        _end(1)
    except Exception as error:
        _give_up(send, error, "could not start")
    send(engine.ready)
    try:
        _serve(engine, inbox, send)
    except Exception as error:
        _give_up(send, error, "crashed")


def _start(settings: WorkerSettings) -> Engine:
    module, _, function = settings.factory.partition(":")
    return getattr(importlib.import_module(module), function)(settings)


def _listen(requests: OneWayQueue, inbox: "queue.SimpleQueue[Request]") -> None:
    """Requests from the queue to the inbox; the end of the queue, or a Shutdown, ends the process.

    Ends it from here, because the main thread may be deep in a step or a load.
    """
    try:
        while not isinstance(request := requests.get(), Shutdown):
            inbox.put(request)
    except (EOFError, OSError):
        _end(0)
    except BaseException:
        logger.exception("A request could not be read")
        _end(1)
    _end(0)


def _serve(
    engine: Engine, inbox: "queue.SimpleQueue[Request]", send: Callable[[Event], None]
) -> NoReturn:
    scheduler = Scheduler(engine.pipeline, engine.voice, sample_rate=engine.ready.sample_rate)
    last_sent = time.monotonic()
    while True:
        events: list[Event] = []
        while scheduler.idle or not inbox.empty():
            request = inbox.get()
            assert not isinstance(request, Shutdown)
            events += scheduler.handle(request)
            if events and scheduler.idle:
                break  # tell before waiting for the next request
        events += scheduler.step()
        if not events and time.monotonic() - last_sent >= BEAT_S:
            events.append(Beat())
        for event in events:
            send(event)
            last_sent = time.monotonic()


def _give_up(send: Callable[[Event], None], error: Exception, what: str) -> NoReturn:
    """The pipeline's state is unknown: say why and end; a fresh process goes on."""
    logger.error("The synthesis process %s", what, exc_info=error)
    if is_out_of_memory(error):
        failed = Failed("", Reason.OUT_OF_MEMORY, "The speech engine ran out of memory.")
    else:
        kind = type(error).__name__
        failed = Failed("", Reason.CRASHED, f"The speech engine {what} ({kind}).")
    send(failed)
    _end(1)


def _end(status: int) -> NoReturn:
    # Not sys.exit: an orderly end of the interpreter can wait for a device or a thread for ever,
    # and everything said went through the queue before this line.
    if sys.stderr:
        sys.stderr.flush()
    os._exit(status)
