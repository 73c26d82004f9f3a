"""Clips on their way to a voice channel: what waits, what plays, and how each one ended."""

import asyncio
import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bot.opus_source import PACKETS_PER_S, OpusSource, PacketStream
from bot.voice_problems import VoiceProblem

log = logging.getLogger(__name__)


class Outcome(StrEnum):
    FINISHED = "finished"
    SKIPPED = "skipped"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True)
class Clip:
    """What is played, and whose it is. `title` is shown in the queue.

    on_heard: called on the loop, twice a second, with the seconds that were played.
    """

    stream: PacketStream
    title: str
    job_id: str
    requester_id: int
    on_heard: Callable[[float], None] | None = None

    @property
    def duration_s(self) -> float:
        """Of what there is of it."""
        return len(self.stream) / PACKETS_PER_S


@dataclass(frozen=True)
class PlayResult:
    """How a clip ended. `started_at` is the clock at its first packet, None if there was none."""

    outcome: Outcome
    packets_sent: int = 0
    started_at: float | None = None
    resumed: bool = False
    problem: VoiceProblem | None = None
    underruns: int = 0  # times the sound was not there yet


@dataclass(frozen=True)
class QueuedClip:
    """One line of the queue; the first is the one that plays when `playing` is set."""

    title: str
    job_id: str
    requester_id: int
    duration_s: float
    remaining_s: float
    playing: bool


class PlayTicket:
    """A clip's place in the queue; await it for its PlayResult.

    Awaiting raises VoiceProblem when the clip failed. `started` is a future of the clock at the
    first packet, or None when the clip ended without one; neither needs to be awaited.
    """

    def __init__(self, clip: Clip) -> None:
        loop = asyncio.get_running_loop()
        self.clip = clip
        self.started: asyncio.Future[float | None] = loop.create_future()
        self.ended: asyncio.Future[PlayResult] = loop.create_future()
        self.resumed = False
        self.source: OpusSource | None = None

    def __await__(self) -> Generator[Any, None, PlayResult]:
        result = yield from asyncio.shield(self.ended).__await__()
        if result.problem is not None:
            raise result.problem
        return result

    def done(self) -> bool:
        return self.ended.done()

    def line(self, *, playing: bool) -> QueuedClip:
        """How the clip stands in the queue now."""
        clip = self.clip
        left_s = clip.duration_s - (self.source.sent / PACKETS_PER_S if self.source else 0)
        return QueuedClip(
            clip.title, clip.job_id, clip.requester_id, clip.duration_s, left_s, playing
        )

    def cancel(self) -> None:
        """Take the clip out of the queue, or stop it if it plays."""
        self.end(Outcome.STOPPED)

    def fail(self, problem: VoiceProblem) -> None:
        self.end(Outcome.FAILED, problem)

    def end(self, outcome: Outcome, problem: VoiceProblem | None = None) -> None:
        """Settle how it went; the first to say so is right."""
        if self.ended.done():
            return
        if not self.started.done():
            self.started.set_result(None)
        sent, underruns = (self.source.sent, self.source.underruns) if self.source else (0, 0)
        started_at = self.started.result()
        self.ended.set_result(
            PlayResult(outcome, sent, started_at, self.resumed, problem, underruns)
        )
        log.info(
            "job %s: voice %s after %.1f of %.1f s, %d underruns",
            self.clip.job_id,
            problem.reason if problem else outcome,
            sent / PACKETS_PER_S,
            self.clip.duration_s,
            underruns,
        )
