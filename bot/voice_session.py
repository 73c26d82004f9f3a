"""One guild's voice: a connection, a queue of clips, and the one task that plays them.

    IDLE -> CONNECTING -> READY <-> PLAYING
                            \\          |
                             -> RECONNECTING   (lost, not sent away: comes back, resumes the clip)
    any state -> CLOSED                        (asked to, sent away, alone, idle, or no way back)

A closed session stays closed; `bot.playback` makes the next one. Everything here runs on the event
loop; only the packet source is read by discord.py's player thread.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import discord

from bot.leave_timer import LeaveTimer
from bot.opus_source import PACKETS_PER_S, OpusSource
from bot.packet_player import play_packets, settle
from bot.stage import take_the_floor
from bot.voice_link import (
    VoiceLink,
    close_link,
    has_company,
    has_listeners,
    open_link,
    wait_until_encrypted,
)
from bot.voice_problems import (
    VoiceChannel,
    VoiceProblem,
    VoiceReason,
    problem_with_joining,
    problem_with_speaking,
)
from bot.voice_queue import Clip, Outcome, PlayTicket, QueuedClip

log = logging.getLogger(__name__)

REFILL = PACKETS_PER_S  # packets that end a pause in a clip whose sound came too late
RESUMES = 1  # times a clip goes on after its connection dropped
IDLE_RECONNECTS = 3  # drops in a row, with nothing played in between, before it gives up


@dataclass(frozen=True, kw_only=True)
class VoiceLimits:
    """Deadlines and bounds of a session; None switches a departure off."""

    join_s: float = 20
    encryption_s: float = 10
    disconnect_s: float = 5
    alone_s: float | None = 60  # nobody but bots has been in the channel for so long
    idle_s: float | None = 300  # nothing has been played for so long
    queue: int = 20  # clips waiting in one guild


class VoiceState(StrEnum):
    IDLE = "idle"
    CONNECTING = "connecting"
    READY = "ready"
    PLAYING = "playing"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"


class VoiceSession:
    """The bot's voice in one guild, from joining a channel to leaving it."""

    def __init__(
        self,
        channel: VoiceChannel,
        *,
        limits: VoiceLimits,
        on_closed: Callable[["VoiceSession"], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.guild = channel.guild
        self.channel = channel  # where it is or is going
        self.state = VoiceState.IDLE
        self.closed_because: VoiceProblem | None = None
        self._limits = limits
        self._on_closed = on_closed
        self._clock = clock
        self._link: VoiceLink | None = None
        self._queue: deque[PlayTicket] = deque()
        self._current: PlayTicket | None = None
        self._wake = asyncio.Event()
        self._on_stage_floor = asyncio.Event()
        self._joining: asyncio.Task[None] | None = None
        self._player: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._timer = LeaveTimer(self._leave_now)
        self._idle_drops = 0

    # What people ask for

    async def join(self, channel: VoiceChannel) -> None:
        """Be ready to play in `channel`; a second caller waits for the first one's connection.

        Raises VoiceProblem: the channel does not let the bot in, the connection failed, or the
        session is busy in another channel.
        """
        if self.state is VoiceState.CLOSED:
            raise VoiceProblem(VoiceReason.NOT_CONNECTED)
        elsewhere = channel.id != self.channel.id
        busy = self._joining is not None or self._current is not None or bool(self._queue)
        if elsewhere and busy:
            raise VoiceProblem(VoiceReason.BUSY_ELSEWHERE, self.channel)
        if self._joining is None:
            if not elsewhere and self.state is not VoiceState.IDLE:
                return
            if problem := problem_with_joining(channel):
                if self.state is VoiceState.IDLE:
                    self._close(problem)
                raise problem
            self._joining = asyncio.create_task(self._join(channel), name="voice join")
            self._joining.add_done_callback(_ignore_outcome)
        # A caller who gives up does not take the connection from the others.
        await asyncio.shield(self._joining)

    def enqueue(self, clip: Clip) -> PlayTicket:
        """Play `clip` after those that wait. Raises VoiceProblem when it could not be heard."""
        if self.state in (VoiceState.CLOSED, VoiceState.IDLE):
            raise VoiceProblem(VoiceReason.NOT_CONNECTED)
        if problem := problem_with_speaking(self.channel):
            raise problem
        waiting = len(self._waiting())
        if waiting >= self._limits.queue:
            raise VoiceProblem(VoiceReason.QUEUE_FULL, self.channel, count=waiting)
        ticket = PlayTicket(clip)
        self._queue.append(ticket)
        self._wake.set()
        self._reconsider_leaving()
        return ticket

    def skip(self) -> Clip | None:
        """Stop the clip that plays and go on with the next; None when nothing plays."""
        ticket = self._current
        if ticket is None or ticket.done():
            return None
        ticket.end(Outcome.SKIPPED)
        return ticket.clip

    def stop(self) -> int:
        """Stop the clip that plays and forget the queue; returns how many clips that were."""
        tickets = [t for t in (self._current, *self._queue) if t and not t.done()]
        for ticket in tickets:
            ticket.end(Outcome.STOPPED)
        self._queue.clear()
        return len(tickets)

    def queue(self) -> tuple[QueuedClip, ...]:
        """What plays and what waits, in order."""
        tickets = [t for t in (self._current, *self._queue) if t and not t.done()]
        return tuple(ticket.line(playing=ticket is self._current) for ticket in tickets)

    async def leave(self, reason: VoiceReason = VoiceReason.LEFT) -> None:
        """Leave the channel, whatever plays; returns when it is done, within the deadline."""
        self._close(VoiceProblem(reason, self.channel))
        await self.wait_closed()

    async def wait_closed(self) -> None:
        """Wait until a closed session has left its channel."""
        if self._closing is not None:
            await asyncio.shield(self._closing)

    # What Discord tells

    def on_voice_state_update(
        self, member: discord.Member, before: discord.VoiceState, after: discord.VoiceState
    ) -> None:
        """Somebody, perhaps the bot, joined, left, moved, or was muted."""
        if self.state is VoiceState.CLOSED:
            return
        if member.id == self.guild.me.id and after.channel is not None:
            self.channel = after.channel
            if not after.suppress:
                self._on_stage_floor.set()
            problem = problem_with_speaking(self.channel)
            if problem and self._current and self.state is VoiceState.PLAYING:
                self._current.fail(problem)
        if self._link is not None:
            self._link.company = has_company(self.channel)
        self._reconsider_leaving()

    def on_channel_deleted(self, channel_id: int) -> None:
        if channel_id == self.channel.id:
            self._close(VoiceProblem(VoiceReason.CHANNEL_DELETED))

    def on_guild_removed(self) -> None:
        self._close(VoiceProblem(VoiceReason.KICKED, self.channel))

    def on_new_login(self, guild: discord.Guild) -> None:
        """The bot has logged in anew: Discord has forgotten its place, the library its objects."""
        if self.state is VoiceState.CLOSED:
            return
        self.guild = guild
        channel = guild.get_channel(self.channel.id)
        if not isinstance(channel, discord.VoiceChannel | discord.StageChannel):
            return self._close(VoiceProblem(VoiceReason.CHANNEL_DELETED))
        self.channel = channel
        if self._link is not None:
            self._link.abandon()

    def _lost(self, kicked: bool) -> None:
        """The link ended by itself. Sent away: respect it. Dropped: the player task comes back."""
        if not kicked:
            log.info("voice connection dropped in guild %s", self.guild.id)
            self._wake.set()
        elif self.guild.get_channel(self.channel.id) is None:
            self._close(VoiceProblem(VoiceReason.CHANNEL_DELETED))
        elif self.guild.me.is_timed_out():
            self._close(VoiceProblem(VoiceReason.TIMED_OUT, self.channel))
        else:
            self._close(VoiceProblem(VoiceReason.KICKED, self.channel))

    # Joining

    async def _join(self, channel: VoiceChannel) -> None:
        self.channel = channel
        try:
            self._enter(VoiceState.CONNECTING)
            await self._connect(channel)
        except VoiceProblem as problem:
            # In a stage's audience it stays: a moderator can only invite who is there.
            if problem.reason is not VoiceReason.STAGE_AUDIENCE:
                self._close(problem)
                raise
            self._become_ready()
            raise
        except BaseException:
            self._close(VoiceProblem(VoiceReason.CONNECT_FAILED, channel))
            raise
        else:
            self._become_ready()
        finally:
            self._joining = None

    def _become_ready(self) -> None:
        self._enter(VoiceState.READY)
        if self._player is None:
            self._player = asyncio.create_task(self._play_all(), name="voice player")

    def _enter(self, state: VoiceState) -> None:
        """Change state. Raises the VoiceProblem that closed the session, if something has."""
        if self.closed_because is not None:
            raise self.closed_because
        self.state = state
        self._reconsider_leaving()

    async def _connect(self, channel: VoiceChannel) -> None:
        """Leave where we are, connect to `channel`, and be allowed and able to speak there."""
        limits = self._limits
        if self._link is not None:
            # Connecting anew is sure, where moving an open connection can fail without a word.
            link, self._link = self._link, None
            await close_link(link, limits.disconnect_s)
        link = await open_link(channel, deadline_s=limits.join_s, disconnect_s=limits.disconnect_s)
        self._link = link
        link.on_lost = self._lost
        if link.lost and link.kicked:
            raise VoiceProblem(VoiceReason.KICKED, channel)
        link.company = has_company(channel)
        if isinstance(channel, discord.StageChannel):
            await take_the_floor(channel, self._on_stage_floor)
        elif not await wait_until_encrypted(link, deadline_s=limits.encryption_s):
            raise VoiceProblem(VoiceReason.NO_ENCRYPTION, channel)

    # Playing

    async def _play_all(self) -> None:
        """The one task that plays: wakes for a clip or a lost connection."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                await self._reconnect_if_lost()
                while self._queue:
                    self._current = self._queue.popleft()
                    if not self._current.done():
                        await self._play(self._current)
                    self._current = None
                self._enter(VoiceState.READY)
        except VoiceProblem as problem:
            self._close(problem)
        except Exception:
            log.exception("playback in guild %s failed", self.guild.id)
            self._close(VoiceProblem(VoiceReason.PLAYER_FAILED, self.channel))

    async def _play(self, ticket: PlayTicket) -> None:
        """Play one clip to its end, going on once where a dropped connection cut it off.

        Raises VoiceProblem when there is no connection to be had.
        """
        loop = asyncio.get_running_loop()

        def first_packet(at: float) -> None:  # in the player thread
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody listens
                loop.call_soon_threadsafe(settle, ticket.started, at)

        def heard(packets: int) -> None:  # in the player thread
            if on_heard := ticket.clip.on_heard:
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(on_heard, packets / PACKETS_PER_S)

        source = ticket.source = OpusSource(
            ticket.clip.stream,
            refill=REFILL,
            hold=self._must_hold,
            hold_limit_s=self._limits.encryption_s,
            on_first_packet=first_packet,
            on_heard=heard,
            clock=self._clock,
        )
        for drops in range(RESUMES + 1):
            await self._reconnect_if_lost()
            ticket.resumed = drops > 0
            if ticket.done():
                return
            if problem := problem_with_speaking(self.channel):
                return ticket.fail(problem)
            self._enter(VoiceState.PLAYING)
            link = self._link
            error = link and await play_packets(link, source, ticket.ended)
            if ticket.done():
                return
            if error is not None:
                log.error("job %s: the player failed", ticket.clip.job_id, exc_info=error)
                return ticket.fail(VoiceProblem(VoiceReason.PLAYER_FAILED, self.channel))
            if source.stalled:
                return ticket.fail(VoiceProblem(VoiceReason.NO_ENCRYPTION, self.channel))
            if source.exhausted:
                self._idle_drops = 0
                return ticket.end(Outcome.FINISHED)
            # The player reports no error when the connection goes: only the count tells.
            source.rewind(1)  # the last packet was read, and not sent
        ticket.fail(VoiceProblem(VoiceReason.DROPPED, self.channel))

    def _must_hold(self) -> bool:
        """Whether a packet sent now could be heard unencrypted. Called from the player thread."""
        link = self._link
        return link is not None and link.exposed

    async def _reconnect_if_lost(self) -> None:
        """Have a connection. Raises VoiceProblem when there is no way back."""
        if self._joining is not None:
            await asyncio.wait({self._joining})
        link = self._link
        if link is not None and await link.is_usable(within_s=self._limits.disconnect_s):
            return
        if self._current is None:
            self._idle_drops += 1
            if self._idle_drops > IDLE_RECONNECTS:
                raise VoiceProblem(VoiceReason.DROPPED, self.channel)
        self._enter(VoiceState.RECONNECTING)
        try:
            await self._connect(self.channel)
        except VoiceProblem as problem:
            if problem.reason is VoiceReason.CONNECT_FAILED:
                raise VoiceProblem(VoiceReason.DROPPED, self.channel) from problem
            raise
        self._enter(VoiceState.READY)

    def _waiting(self) -> list[PlayTicket]:
        return [ticket for ticket in self._queue if not ticket.done()]

    # Leaving

    def _reconsider_leaving(self) -> None:
        """Keep the one timer in step with what there is to stay for."""
        reason = self._reason_to_leave()
        alone = reason is VoiceReason.EVERYONE_LEFT
        self._timer.set(reason, self._limits.alone_s if alone else self._limits.idle_s)

    def _reason_to_leave(self) -> VoiceReason | None:
        if self.state not in (VoiceState.READY, VoiceState.PLAYING):
            return None  # not in the middle of a handshake
        if self._limits.alone_s is not None and not has_listeners(self.channel):
            return VoiceReason.EVERYONE_LEFT
        if self._current is None and not self._waiting():
            return VoiceReason.IDLE
        return None

    def _leave_now(self, reason: VoiceReason) -> None:
        self._close(VoiceProblem(reason, self.channel))

    def _close(self, problem: VoiceProblem) -> None:
        """End everything, once; the tasks and the connection are seen to by `_closing`."""
        if self.state is VoiceState.CLOSED:
            return
        log.info("voice session in guild %s closes: %s", self.guild.id, problem.reason)
        self.state = VoiceState.CLOSED
        self.closed_because = problem
        self._timer.cancel()
        for ticket in (self._current, *self._queue):
            if ticket is not None:
                ticket.fail(problem)
        self._queue.clear()
        self._closing = asyncio.create_task(self._finish_closing(), name="voice close")

    async def _finish_closing(self) -> None:
        try:
            tasks = {task for task in (self._joining, self._player) if task is not None}
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=self._limits.disconnect_s)
            link, self._link = self._link, None
            if link is not None:
                await close_link(link, self._limits.disconnect_s)
        finally:
            if self._on_closed is not None:
                self._on_closed(self)


def _ignore_outcome(task: "asyncio.Task[None]") -> None:
    """Those who wait get the exception; it is no loss when nobody does."""
    if not task.cancelled():
        task.exception()
