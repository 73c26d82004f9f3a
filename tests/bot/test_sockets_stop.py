"""The bot's end, sudden and in order, and what those who wait are told; over real sockets."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.discord_server import DiscordServer
from tests.discord_server.bot_process import BotProcess
from tests.discord_server.fixtures import SETTINGS
from tests.discord_server.model import write_model


def bot(server: DiscordServer, folder: Path) -> BotProcess:
    # Clips long enough to be in the middle of.
    settings = SETTINGS | {"BARK_LIMITS__CLIP_SECONDS": "6"}
    return BotProcess(server, folder, BARK_SYNTH__MODEL=str(folder / "model"), **settings)


@pytest.mark.timeout(120)
async def test_killed_then_restarted_then_stopped(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    async with DiscordServer(heartbeat_s=1) as discord:
        world, journal = discord.world, discord.journal
        async with bot(discord, tmp_path) as first:
            jobs = [
                await discord.command(world.alice, "bark", text=f"Job {n}", to="file")
                for n in range(3)
            ]
            await discord.answered(jobs[2], lambda i: "Cancel" in i.buttons)
            await discord.answered(jobs[0], lambda i: bool(i.attachments))
            first.process.kill()
            await first.process.wait()
            assert not jobs[2].attachments

        mark = journal.mark
        async with bot(discord, tmp_path) as second:
            assert second.process.returncode is None, second.log
            await discord.answered(jobs[2], lambda i: not i.buttons)
            assert "restarted" in jobs[2].content
            assert not journal.find("synced", mark)

            await discord.join_voice(world.alice, world.lounge)
            await discord.command(world.alice, "bark", text="Playing", to="voice")
            await journal.wait_for("speaking", mark, speaking=1)
            working = await discord.command(world.alice, "bark", text="In the works", to="file")
            await discord.answered(working)
            begun_s = time.monotonic()
            second.process.send_signal(signal.SIGINT)
            status = await second.process.wait()
            assert time.monotonic() - begun_s < 5  # Ctrl-C must not feel stuck
            assert status == 0
            assert world.voice_channel_of(world.bot) is None
            assert "Traceback" not in second.log
            assert working.attachments or "restarted" in working.content
        assert not discord.failures
