"""The built-in model's words, from a command to the packets of a voice channel, and how loud they
are there and in a file.

A recogniser reads what a listener would hear; the bound is wide, so that it fails when something
broke and not when a word is slurred.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from synth.audio import TARGET_LUFS, measure, open_ffmpeg, run
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
        "STAND_IN_NEEDED_S": "0.5",
    }
    async with BotProcess(discord, folder, **settings) as bot:
        yield bot
    assert bot.process.returncode == 0, bot.log


@dataclass(frozen=True)
class Spoken:
    """A clip at 48 kHz, mono: as heard while it was made, and as posted when it was whole."""

    text: str
    live: recording.Samples
    file: recording.Samples


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def spoken(discord: DiscordServer, barker: BotProcess) -> list[Spoken]:
    """Each voice speaks, the first one twice, so that its last clip has one to learn from."""
    await discord.join_voice(discord.world.alice, discord.world.lounge)
    clips: list[Spoken] = []
    for text, voice in SENTENCES.items():
        hearing = Hearing(discord)
        asked = await discord.command(
            discord.world.alice, "bark", text=text, preset=voice, to="both", seed=1
        )
        packets = await hearing.end()
        await discord.answered(asked, lambda i: bool(i.attachments))
        live = recording.decode([packet for packet in packets if not packet.silent])
        clips.append(Spoken(text, live, recording.read_clip(asked.attachments[0].data)))
    await discord.leave_voice(discord.world.alice)
    return clips


async def test_all_voices_are_equally_loud(spoken: list[Spoken]) -> None:
    """A voice's peaks kept its files up to 8 LU, its streams up to 9 LU below the target."""
    files = [_off_target(clip.file, channels=1) for clip in spoken]
    live = [_off_target(clip.live, channels=2) for clip in spoken]
    assert np.abs(files).max() <= 1, files
    assert np.abs(live).max() <= 3, live


def _off_target(samples: recording.Samples, channels: int) -> float:
    """In LU, played on so many channels that carry the same."""
    heard = measure(
        samples.astype(np.float32), recording.RATE, ffmpeg=open_ffmpeg(), channels=channels
    )
    return run(heard).integrated_lufs - TARGET_LUFS


async def test_a_listener_understands_the_words(spoken: list[Spoken]) -> None:
    judges = Judges()
    heard = [judges.whisper(clip.live[::2]) for clip in spoken]
    errors = word_errors(list(SENTENCES), heard)
    logging.getLogger(__name__).info("%.0f %% of the words are wrong: %s", 100 * errors, heard)
    assert errors < MOST_WORDS_WRONG, heard
