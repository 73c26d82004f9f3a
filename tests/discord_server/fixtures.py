"""The bot and the stand-in, one of each for a whole test module.

pytest_plugins = ["tests.discord_server.fixtures"]
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("clean")]
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.discord_server.bot_process import SETTINGS, BotProcess
from tests.discord_server.model import write_model
from tests.discord_server.server import DiscordServer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def discord() -> AsyncIterator[DiscordServer]:
    async with DiscordServer(heartbeat_s=1) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def barker(
    discord: DiscordServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[BotProcess]:
    """The bot, logged in, with a model whose sound Opus can carry."""
    folder: Path = tmp_path_factory.mktemp("barker")
    write_model(folder / "model")
    async with BotProcess(
        discord, folder, BARK_SYNTH__MODEL=str(folder / "model"), **SETTINGS
    ) as bot:
        yield bot
    assert bot.process.returncode == 0, bot.log


@pytest_asyncio.fixture(loop_scope="module")
async def clean(discord: DiscordServer, barker: BotProcess) -> AsyncIterator[None]:
    """Nothing that Discord does not forgive happens in any test; the bot outlives each."""
    mark = discord.journal.mark
    yield
    assert barker.process.returncode is None, barker.log
    failures = discord.journal.find("failure", mark)
    assert not failures, discord.journal.describe(failures)
    unknown = discord.journal.find("unknown_route", mark)
    assert not unknown, discord.journal.describe(unknown)
    # discord.py logs a refused voice handshake as an error; the bot's own parts must have none.
    assert not re.search(r"ERROR (bot|synth|asyncio)", barker.log), barker.log
