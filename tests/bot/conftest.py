"""A stand-in for Discord, a bot in it that only plays, and a clip to be heard."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator

import aiohttp
import numpy as np
import pytest
import yarl
from discord.gateway import DiscordWebSocket
from discord.http import Route

from bot.transcode import Transcoder
from tests.bot.voice_scene import Bot
from tests.discord_server import DiscordServer
from tests.discord_server.server import TOKEN
from tests.synth.sounds import RATE, speech_like


@pytest.fixture
async def server() -> AsyncIterator[DiscordServer]:
    async with DiscordServer() as running:
        yield running


@pytest.fixture
async def bot(server: DiscordServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bot]:
    monkeypatch.setattr(Route, "BASE", server.api_url)
    monkeypatch.setattr(DiscordWebSocket, "DEFAULT_GATEWAY", yarl.URL(server.gateway.url))
    context = ssl.create_default_context(cafile=str(server.authority))
    client = Bot(aiohttp.TCPConnector(ssl=context))
    async with client:
        running = asyncio.create_task(client.start(TOKEN))
        await asyncio.wait_for(client.came_ready.wait(), 20)
        yield client
        await client.voices.close()
        await client.close()
        await running


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return speech_like(1.2, seed=7)


@pytest.fixture(scope="module")
def packets(speech: np.ndarray) -> list[bytes]:
    return asyncio.run(Transcoder().opus_packets(speech, RATE))
