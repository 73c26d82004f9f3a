"""The built-in model's words, from a command to the packets of a voice channel.

A recogniser reads what a listener would hear; the bound is wide, so that it fails when something
broke and not when a word is slurred.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from synth.nano.judges import Judges, word_errors
from synth.protocol import BUILT_IN_MODEL
from tests.discord_server import DiscordServer, recording
from tests.discord_server.bot_process import SETTINGS, BotProcess
from tests.discord_server.hearing import Hearing

pytest_plugins = ["tests.discord_server.fixtures"]
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.usefixtures("clean"),
    pytest.mark.timeout(180),
]

MOST_WORDS_WRONG = 0.3
SENTENCES = {
    "Good morning, how are you today?": "nano/ada",
    "Thank you very much for your help.": "nano/bruno",
    "My brother bought a new bicycle last week.": "nano/clio",
    "There are twenty five students in the classroom.": "nano/dario",
    "The weather will be cold and rainy tomorrow.": "nano/ada",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def barker(
    discord: DiscordServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[BotProcess]:
    """The bot, logged in, with the model inside the package."""
    folder: Path = tmp_path_factory.mktemp("barker")
    settings = SETTINGS | {
        "BARK_SYNTH__MODEL": BUILT_IN_MODEL,
        "BARK_LIMITS__CLIP_SECONDS": "10",
    }
    async with BotProcess(discord, folder, **settings) as bot:
        yield bot
    assert bot.process.returncode == 0, bot.log


async def test_a_listener_understands_the_words(discord: DiscordServer) -> None:
    judges = Judges()
    await discord.join_voice(discord.world.alice, discord.world.lounge)
    heard: list[str] = []
    for text, voice in SENTENCES.items():
        hearing = Hearing(discord)
        await discord.command(
            discord.world.alice, "bark", text=text, preset=voice, to="voice", seed=1
        )
        heard.append(judges.whisper(recording.decode(await hearing.end())[::2]))
    await discord.leave_voice(discord.world.alice)
    errors = word_errors(list(SENTENCES), heard)
    logging.getLogger(__name__).info("%.0f %% of the words are wrong: %s", 100 * errors, heard)
    assert errors < MOST_WORDS_WRONG, heard
