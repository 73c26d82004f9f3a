"""A bot that does nothing but play, and what tests of its voice do with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import discord
import numpy as np

from bot.opus_source import PacketStream
from bot.playback import Clip, VoiceLimits, VoiceSession, VoiceSessions, VoiceState
from tests.discord_server import DiscordServer, recording
from tests.discord_server.world import VOICE, Channel

LIMITS = VoiceLimits(join_s=5, encryption_s=2, disconnect_s=1, alone_s=None, idle_s=None, queue=3)


class Bot(discord.Client):
    """A client that does nothing but hand its voice events to playback, as the bot's does."""

    def __init__(self, connector: aiohttp.BaseConnector) -> None:
        intents = discord.Intents.none()
        intents.guilds = intents.voice_states = True
        super().__init__(intents=intents, connector=connector, guild_ready_timeout=0.1)
        self.voices = VoiceSessions(LIMITS)
        self.came_ready = asyncio.Event()

    def limit(self, **limits: float | None) -> None:
        self.voices._limits = VoiceLimits(**{**LIMITS.__dict__, **limits})

    async def on_ready(self) -> None:
        self.voices.on_ready(self)
        self.came_ready.set()

    async def on_voice_state_update(
        self, member: discord.Member, before: discord.VoiceState, after: discord.VoiceState
    ) -> None:
        self.voices.on_voice_state_update(member, before, after)

    async def on_guild_channel_delete(self, channel: discord.abc.GuildChannel) -> None:
        self.voices.on_guild_channel_delete(channel)


def seen(bot: Bot, channel: Channel) -> discord.VoiceChannel:
    found = bot.get_channel(channel.id)
    assert isinstance(found, discord.VoiceChannel | discord.StageChannel)
    return found  # pyright: ignore[reportReturnType]


def clip(packets: list[bytes], title: str = "Hello") -> Clip:
    return Clip(PacketStream(packets), title=title, job_id=f"job-{title}", requester_id=1)


async def joined(bot: Bot, server: DiscordServer, listening: bool = True) -> VoiceSession:
    if listening:
        await server.join_voice(server.world.alice, server.world.lounge)
    return await bot.voices.join(seen(bot, server.world.lounge))


def likeness(server: DiscordServer, speech: np.ndarray) -> float:
    """How well what listeners heard, in all, matches what was to be said."""
    heard = recording.decode(recording.sounding(server.voice.packets))
    wanted = np.interp(np.arange(len(speech) * 2) / 2, np.arange(len(speech)), speech)
    return recording.similarity(heard, wanted)[0]


async def put_in_timeout(bot: Bot, server: DiscordServer) -> None:
    punished = server.world.member(server.world.bot)
    punished["communication_disabled_until"] = "2999-01-01T00:00:00+00:00"
    punished["guild_id"] = str(server.world.guild_id)
    await server.gateway.dispatch("GUILD_MEMBER_UPDATE", punished)
    await until(lambda: server_guild(bot, server).me.is_timed_out())


async def added_channel(server: DiscordServer, name: str, **options: Any) -> Channel:
    channel = Channel(name, VOICE, **options)
    await server.add_channel(channel)
    return channel


def server_guild(bot: Bot, server: DiscordServer) -> discord.Guild:
    guild = bot.get_guild(server.world.guild_id)
    assert guild is not None
    return guild


async def change_own_voice_state(server: DiscordServer, **changes: bool) -> None:
    state = server.world.voice_states[server.world.bot.id]
    await server.gateway.dispatch("VOICE_STATE_UPDATE", server.world.voice_state(state) | changes)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until `condition` holds: events need a few turns to arrive."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the client has no event for each of them
            await asyncio.sleep(0.005)


async def until_state(session: VoiceSession, state: VoiceState) -> None:
    await until(lambda: session.state is state)
    if state is VoiceState.CLOSED:
        await session.wait_closed()
