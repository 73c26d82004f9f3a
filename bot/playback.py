"""The bot's voice in all its guilds: one session each, made when someone asks for it.

The Discord client hands its voice events to `VoiceSessions`; commands use what it returns. See
`bot.voice_session` for what a session does.
"""

import asyncio
import time
from collections.abc import Callable

import discord

from bot.voice_problems import (
    VoiceChannel,
    VoiceProblem,
    VoiceReason,
    problem_with_joining,
    problem_with_speaking,
)
from bot.voice_queue import Clip, Outcome, PlayResult, PlayTicket, QueuedClip
from bot.voice_session import VoiceLimits, VoiceSession, VoiceState

__all__ = [
    "Clip",
    "Outcome",
    "PlayResult",
    "PlayTicket",
    "QueuedClip",
    "VoiceChannel",
    "VoiceLimits",
    "VoiceProblem",
    "VoiceReason",
    "VoiceSession",
    "VoiceSessions",
    "VoiceState",
    "problem_with_joining",
    "problem_with_speaking",
]


class VoiceSessions:
    """Owns every guild's session; `close` ends them all."""

    def __init__(
        self,
        limits: VoiceLimits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits or VoiceLimits()
        self._clock = clock
        self._sessions: dict[int, VoiceSession] = {}
        self._closed = False

    def get(self, guild: discord.abc.Snowflake) -> VoiceSession | None:
        """The guild's session, unless it is leaving or there is none."""
        session = self._sessions.get(guild.id)
        return None if session is None or session.state is VoiceState.CLOSED else session

    async def join(
        self, channel: VoiceChannel, member: discord.Member | None = None
    ) -> VoiceSession:
        """Be in `channel`, ready to play; `member` is who asks, and must be allowed in as well.

        A session that has nothing to do elsewhere in the guild comes over. Raises VoiceProblem.
        """
        guild_id = channel.guild.id
        while (session := self._sessions.get(guild_id)) and session.state is VoiceState.CLOSED:
            # Discord would take the late goodbye of the old connection for one of the new.
            await session.wait_closed()
        if self._closed:
            raise VoiceProblem(VoiceReason.SHUTTING_DOWN)
        if problem := problem_with_joining(channel, member):
            raise problem
        if session is None:
            session = self._sessions[guild_id] = VoiceSession(
                channel, limits=self._limits, on_closed=self._forget, clock=self._clock
            )
        await session.join(channel)
        return session

    def on_ready(self, client: discord.Client) -> None:
        """Hand on discord.py's event of that name, which comes again after a lost gateway."""
        for session in tuple(self._sessions.values()):
            guild = client.get_guild(session.guild.id)
            if guild is None:
                session.on_guild_removed()
            elif guild is not session.guild:
                session.on_new_login(guild)

    def on_voice_state_update(
        self, member: discord.Member, before: discord.VoiceState, after: discord.VoiceState
    ) -> None:
        """Hand on discord.py's event of that name."""
        if session := self.get(member.guild):
            session.on_voice_state_update(member, before, after)

    def on_guild_channel_delete(self, channel: discord.abc.GuildChannel) -> None:
        """Hand on discord.py's event of that name."""
        if session := self.get(channel.guild):
            session.on_channel_deleted(channel.id)

    def on_guild_remove(self, guild: discord.Guild) -> None:
        """Hand on discord.py's event of that name."""
        if session := self.get(guild):
            session.on_guild_removed()

    async def close(self) -> None:
        """Leave every channel, each within its deadline, and take no new ones."""
        self._closed = True
        sessions = tuple(self._sessions.values())
        await asyncio.gather(*(session.leave(VoiceReason.SHUTTING_DOWN) for session in sessions))

    def _forget(self, session: VoiceSession) -> None:
        if self._sessions.get(session.guild.id) is session:
            del self._sessions[session.guild.id]
