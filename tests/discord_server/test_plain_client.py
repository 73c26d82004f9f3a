"""The stand-in tried with a plain discord.py client, so that a bot's failure is the bot's."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator

import aiohttp
import discord
import pytest
import yarl
from discord import app_commands
from discord.gateway import DiscordWebSocket
from discord.http import Route

from tests.discord_server import DiscordServer, opus, recording
from tests.discord_server.server import TOKEN

CLIP_S = 2.0


class Tone(discord.AudioSource):
    def __init__(self, packets: list[bytes]) -> None:
        self._packets = iter(packets)

    def is_opus(self) -> bool:
        return True

    def read(self) -> bytes:
        return next(self._packets, b"")


class PlainClient(discord.Client):
    def __init__(self, connector: aiohttp.BaseConnector) -> None:
        intents = discord.Intents.none()
        intents.guilds = intents.voice_states = True
        super().__init__(intents=intents, connector=connector)
        self.tree = app_commands.CommandTree(self)
        self.came_ready = asyncio.Event()

    async def setup_hook(self) -> None:
        @self.tree.command(description="answer")
        async def echo(interaction: discord.Interaction, text: str, wait: bool = False) -> None:
            if wait:
                await interaction.response.defer()
                file = discord.File(__file__, filename="own.py")
                await interaction.followup.send(text, file=file)
            else:
                await interaction.response.send_message(text)

        await self.tree.sync()

    async def on_ready(self) -> None:
        self.came_ready.set()


@pytest.fixture
async def server() -> AsyncIterator[DiscordServer]:
    async with DiscordServer() as running:
        yield running


@pytest.fixture
async def client(
    server: DiscordServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PlainClient]:
    monkeypatch.setattr(Route, "BASE", server.api_url)
    monkeypatch.setattr(DiscordWebSocket, "DEFAULT_GATEWAY", yarl.URL(server.gateway.url))
    context = ssl.create_default_context(cafile=str(server.authority))
    client = PlainClient(aiohttp.TCPConnector(ssl=context))
    async with client:
        task = asyncio.create_task(client.start(TOKEN))
        ready = asyncio.create_task(client.came_ready.wait())
        await asyncio.wait({task, ready}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        assert ready.done(), task.exception() if task.done() else server.journal.describe()
        yield client
        await client.close()
        await task


def voice_channel(server: DiscordServer, client: PlainClient, name: str) -> discord.VoiceChannel:
    guild = client.get_guild(server.world.guild_id)
    assert guild is not None
    channel = discord.utils.get(guild.channels, name=name)
    assert isinstance(channel, discord.VoiceChannel | discord.StageChannel)
    return channel  # pyright: ignore[reportReturnType]


async def play(voice: discord.VoiceClient, samples: recording.Samples) -> None:
    loop = asyncio.get_running_loop()
    finished = loop.create_future()
    voice.play(
        Tone(opus.encode(samples)),
        after=lambda error: loop.call_soon_threadsafe(finished.set_result, error),
    )
    assert await finished is None


async def test_logs_in_syncs_and_answers(server: DiscordServer, client: PlainClient) -> None:
    alice = server.world.alice
    assert server.journal.find("synced", names=["echo"])
    quick = await server.answered(await server.command(alice, "echo", text="hello"))
    assert quick.content == "hello"
    slow = await server.command(alice, "echo", text="with a file", wait=True)
    await server.answered(slow, lambda i: bool(i.attachments))
    assert slow.original is not None and slow.original.content == "with a file"
    assert b"own.py" in slow.attachments[0].data
    assert not server.failures
    assert not server.journal.find("unknown_route")


async def test_stage_channel_is_heard_without_end_to_end_encryption(
    server: DiscordServer, client: PlainClient
) -> None:
    await server.join_voice(server.world.alice, server.world.stage)
    voice = await voice_channel(server, client, "Stage").connect()
    tone = opus.sweep(CLIP_S)
    await play(voice, tone)
    packets = recording.sounding(server.voice.packets)
    assert not any(packet.end_to_end for packet in packets)
    score, _ = recording.similarity(recording.decode(packets), tone)
    assert score > 0.99
    await voice.disconnect()
    assert not server.failures


async def test_listener_hears_an_encrypted_tone(server: DiscordServer, client: PlainClient) -> None:
    await server.join_voice(server.world.alice, server.world.lounge)
    voice = await voice_channel(server, client, "Lounge").connect()
    await server.journal.wait_for("dave_executed")
    assert voice._connection.can_encrypt
    tone = opus.sweep(CLIP_S)
    await play(voice, tone)
    packets = recording.sounding(server.voice.packets)
    assert all(packet.end_to_end for packet in packets)
    assert not any(packet.exposed for packet in server.voice.packets)
    assert recording.missing(packets) == 0
    score, _ = recording.similarity(recording.decode(packets), tone)
    assert score > 0.99
    await voice.disconnect()
    assert not server.failures
