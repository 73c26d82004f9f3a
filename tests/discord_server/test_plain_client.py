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
from discord.voice_state import VoiceConnectionState

from tests.discord_server import DiscordServer, opus, recording
from tests.discord_server.server import TOKEN

CLIP_S = 1.0


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
        super().__init__(intents=intents, connector=connector, guild_ready_timeout=0.1)
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


async def test_readable_sound_is_noticed(
    server: DiscordServer, client: PlainClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await server.join_voice(server.world.alice, server.world.lounge)
    voice = await voice_channel(server, client, "Lounge").connect()
    await server.journal.wait_for("dave_executed")
    monkeypatch.setattr(VoiceConnectionState, "can_encrypt", False)
    await play(voice, opus.sweep(0.2))
    await server.journal.until(lambda: len(server.voice.packets) >= 10, "ten packets")
    assert all(packet.exposed for packet in recording.sounding(server.voice.packets))


async def test_bot_alone_is_joined_and_left_by_listeners(
    server: DiscordServer, client: PlainClient
) -> None:
    """The bot commits the group itself; from the change-over on nothing goes out readable."""
    voice = await voice_channel(server, client, "Lounge").connect()
    assert not voice._connection.can_encrypt  # alone: there is nobody to agree with
    for person, members in ((server.world.alice, 2), (server.world.bob, 3)):
        mark = server.journal.mark
        await server.join_voice(person, server.world.lounge)
        await server.journal.wait_for("dave_executed", mark)
        assert len(server.voice.call(server.world.lounge).member_ids) == members
    mark = server.journal.mark
    await server.leave_voice(server.world.alice)
    await server.journal.wait_for("dave_executed", mark)
    tone = opus.sweep(0.5)
    await play(voice, tone)
    packets = recording.sounding(server.voice.packets)
    assert all(packet.end_to_end and packet.opus for packet in packets)
    assert not server.failures


async def test_bot_recovers_from_a_broken_welcome(
    server: DiscordServer, client: PlainClient
) -> None:
    await server.join_voice(server.world.alice, server.world.lounge)
    server.voice.call(server.world.lounge).spoil_next_welcome = True
    voice = await voice_channel(server, client, "Lounge").connect()
    await server.journal.wait_for("dave_invalid_commit")
    await server.journal.wait_for("dave_executed")
    assert voice._connection.can_encrypt


async def test_moved_then_kicked(server: DiscordServer, client: PlainClient) -> None:
    voice = await voice_channel(server, client, "Lounge").connect()
    mark = server.journal.mark
    await server.move_bot(server.world.attic)
    await server.journal.wait_for("voice_connected", mark, channel="Attic")
    await server.kick_bot()
    await server.journal.until(lambda: not voice.is_connected(), "the bot to notice")
    assert not server.failures


async def test_lost_gateway_is_resumed_and_what_was_missed_replayed(
    server: DiscordServer, client: PlainClient
) -> None:
    server.gateway.drop()
    await server.join_voice(server.world.alice, server.world.lounge)  # nobody is told now
    resumed = await server.journal.wait_for("resume")
    assert resumed["missed"] == 1
    answer = await server.command(server.world.alice, "echo", text="back")
    assert (await server.answered(answer)).content == "back"


async def test_faults_and_limits(server: DiscordServer, client: PlainClient) -> None:
    alice = server.world.alice
    server.fail("POST .*/webhooks/", 429, retry_after_s=0.2)
    server.fail("POST .*/webhooks/", 502)
    slow = await server.command(alice, "echo", text="at last", wait=True)
    await server.answered(slow, lambda i: "at last" in i.content)
    assert [record["status"] for record in server.journal.find("fault")] == [429, 502]
    server.interactions.size_limit = 100
    huge = await server.command(alice, "echo", text="too big", wait=True)
    await server.journal.wait_for("too_large")
    assert not huge.attachments
    huge.expired = True
    with pytest.raises(Exception, match="Invalid Webhook Token"):
        server.interactions.of_token(huge.token)


async def test_late_acknowledgement_is_a_failure(
    server: DiscordServer, client: PlainClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.discord_server.interactions.ACKNOWLEDGE_S", 0.1)
    server.fail("/callback", delay_s=0.3)
    await server.command(server.world.alice, "echo", text="late")
    await server.journal.wait_for("failure", what="no acknowledgement within 3 s")
    await server.journal.wait_for("failure", what="acknowledged late")
