"""A clip's way into a voice channel, which is joined while the clip is still being made.

Where the engine keeps up, the clip is also heard while it is being made; else when it is whole.
"""

import asyncio
import logging
from collections.abc import Callable

import discord
import numpy as np
import numpy.typing as npt

from bot.delivery import Making, Order
from bot.errors import SynthUnavailable, UserError
from bot.live_clip import LiveClip, LiveSounds
from bot.opus_source import PacketStream
from bot.playback import Clip as Playable
from bot.playback import (
    Outcome,
    PlayResult,
    PlayTicket,
    VoiceChannel,
    VoiceReason,
    VoiceSession,
    VoiceSessions,
)
from bot.replies import STOPPED_UNHEARD, clip_title
from bot.speech import Clip
from bot.transcode import Transcoder

logger = logging.getLogger(__name__)

# Whoever sends the bot away does not want it back for the clips that were on their way.
_SENT_AWAY = (VoiceReason.LEFT, VoiceReason.KICKED, VoiceReason.CHANNEL_DELETED)


class ChannelPlayer:
    """One order's claim on a channel. Implements `bot.delivery.Player`."""

    def __init__(
        self,
        sessions: VoiceSessions,
        transcoder: Transcoder,
        sounds: LiveSounds,
        channel: VoiceChannel,
        member: discord.Member,
        clock: Callable[[], float],
    ) -> None:
        self.where = channel.mention
        self._sessions = sessions
        self._transcoder = transcoder
        self._sounds = sounds
        self._channel = channel
        self._member = member
        self._clock = clock
        self._began = clock()
        self._joining: asyncio.Task[VoiceSession] | None = None
        self._live: LiveClip | None = None
        self._entering: asyncio.Task[PlayTicket] | None = None
        self._ticket: PlayTicket | None = None
        self._stopped = False  # before it was heard
        self._over = False  # the clip is whole, or will never be

    @property
    def heard(self) -> bool:
        """Whether the clip has begun to sound."""
        return self._ticket is not None and self._ticket.source is not None

    def prepare(self, order: Order, making: Making) -> None:
        """Begin to join. What goes wrong with that is told by `play`."""
        self._order, self._making = order, making
        self._live = self._sounds.clip(order.request.voice, making.sample_rate)
        self._joining = asyncio.create_task(self._sessions.join(self._channel, self._member))

    def hear(self, samples: npt.NDArray[np.float32], needed_s: float) -> None:
        """Take the next samples of the clip, to be heard as soon as `needed_s` seconds are there.

        Neither waits nor raises.
        """
        live = self._live
        assert live is not None, "prepared before any sound came"
        if self._stopped or (self._ticket is not None and self._ticket.done()):
            return  # nobody listens any more
        live.hear(samples, needed_s)
        if live.begun and self._entering is None:
            self._entering = asyncio.create_task(self._enter_live(live))

    async def play(self, clip: Clip, order: Order) -> PlayTicket:
        """The clip is whole: let it be heard to its end, or queue it if it is not heard yet.

        Raises VoiceProblem, UserError when it was stopped before it was heard or its encoder failed
        half-way, SynthUnavailable.
        """
        self._over = True
        if self._stopped:
            raise UserError(STOPPED_UNHEARD)
        live = self._live
        is_dialogue = bool(clip.cast)  # of several voices, which says how loud none of them is
        if self._entering is None or live is None:
            if not is_dialogue:
                self._sounds.learn(clip.voice, clip.samples, clip.sample_rate)
            packets = await self._transcoder.opus_packets(clip.samples, clip.sample_rate)
            return await self._enter(PacketStream(packets))
        if not is_dialogue:
            live.learn()
        try:
            await live.finish()
        except SynthUnavailable as problem:  # there is a clip, and it can be posted
            raise UserError(str(problem)) from problem
        return await self._entering

    async def _enter_live(self, live: LiveClip) -> PlayTicket:
        await live.until_ready()
        self._ticket = ticket = await self._enter(live.stream)
        ticket.ended.add_done_callback(self._ended)
        if self._stopped:
            ticket.cancel()
        return ticket

    async def _enter(self, stream: PacketStream) -> PlayTicket:
        """Queue what is to be played. Raises VoiceProblem."""
        if self._joining is not None:
            sent_away = (await asyncio.shield(self._joining)).closed_because
            if sent_away is not None and sent_away.reason in _SENT_AWAY:
                raise sent_away
        # Joined anew: since `prepare` the bot may have left by itself.
        session = await self._sessions.join(self._channel, self._member)
        request = self._order.request
        title = clip_title(request.text)
        playable = Playable(stream, title, request.job_id, self._order.user_id, self._making.played)
        ticket = session.enqueue(playable)
        ticket.started.add_done_callback(self._started)
        return ticket

    def _started(self, started: "asyncio.Future[float | None]") -> None:
        at = started.result()
        if at is not None:
            logger.info(
                "job %s: heard after %.2f s%s",
                self._order.request.job_id,
                at - self._began,
                "" if self._over else ", while it is being made",
            )

    def _ended(self, ended: "asyncio.Future[PlayResult]") -> None:
        """What is stopped while it is being made is made no further, unless as a file."""
        if self._over or self._live is None:
            return
        self._live.cut()
        if ended.result().outcome in (Outcome.SKIPPED, Outcome.STOPPED):
            if not self._order.wants_file:
                self._making.cancel()

    def stop(self) -> None:
        """Let it be heard no further, or not at all; without a file to come it is not made."""
        if self._ticket is not None:
            self._ticket.cancel()
        elif not self._over:
            self._stopped = True
            if self._live is not None:
                self._live.cut()
            if not self._order.wants_file:
                self._making.cancel()

    async def close(self, *, cut: bool) -> None:
        """Give up joining, if it is still going on. cut: what plays is stopped; else what has come
        of the clip is heard.
        """
        self._over = True
        if self._live is not None:
            if cut:
                self._live.cut()
            else:
                await asyncio.gather(self._live.finish(), return_exceptions=True)
            await self._live.close()
        for task in (self._joining, self._entering):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if cut and self._ticket is not None:
            self._ticket.cancel()
