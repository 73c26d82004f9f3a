"""A clip's way into a voice channel: the channel is joined while the clip is still being made."""

import asyncio

import discord

from bot.delivery import Order
from bot.playback import Clip as Playable
from bot.playback import PlayTicket, VoiceChannel, VoiceReason, VoiceSession, VoiceSessions
from bot.replies import clip_title
from bot.speech import Clip
from bot.transcode import Transcoder

# Whoever sends the bot away does not want it back for the clips that were on their way.
_SENT_AWAY = (VoiceReason.LEFT, VoiceReason.KICKED, VoiceReason.CHANNEL_DELETED)


class ChannelPlayer:
    """One order's claim on a channel. Implements `bot.desk.Player`."""

    def __init__(
        self,
        sessions: VoiceSessions,
        transcoder: Transcoder,
        channel: VoiceChannel,
        member: discord.Member,
    ) -> None:
        self.where = channel.mention
        self._sessions = sessions
        self._transcoder = transcoder
        self._channel = channel
        self._member = member
        self._joining: asyncio.Task[VoiceSession] | None = None

    def prepare(self) -> None:
        """Begin to join. What goes wrong with that is told by `play`."""
        self._joining = asyncio.create_task(self._sessions.join(self._channel, self._member))

    async def play(self, clip: Clip, order: Order) -> PlayTicket:
        """Queue the clip in the channel. Raises VoiceProblem, SynthUnavailable."""
        packets = await self._transcoder.opus_packets(clip.samples, clip.sample_rate)
        if self._joining is not None:
            sent_away = (await self._joining).closed_because
            if sent_away is not None and sent_away.reason in _SENT_AWAY:
                raise sent_away
        # Joined anew: since `prepare` the bot may have left by itself.
        session = await self._sessions.join(self._channel, self._member)
        request = order.request
        return session.enqueue(
            Playable(packets, clip_title(request.text), request.job_id, order.user_id)
        )

    async def close(self) -> None:
        """Give up joining, if it is still going on."""
        if self._joining is not None:
            self._joining.cancel()
            await asyncio.gather(self._joining, return_exceptions=True)
