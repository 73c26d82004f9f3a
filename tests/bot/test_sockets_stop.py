"""Ctrl-C while the bot plays and works, over real sockets."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from bot import replies
from tests.discord_server import DiscordServer
from tests.discord_server.bot_process import SETTINGS, BotProcess
from tests.discord_server.model import write_model

STOP_S = 5


async def test_ctrl_c_leaves_voice_and_tells_who_waits(tmp_path: Path) -> None:
    """Left to asyncio, Ctrl-C cut the connection over which the bot would have said goodbye."""
    write_model(tmp_path / "model")
    settings = SETTINGS | {
        "BARK_SYNTH__MODEL": str(tmp_path / "model"),
        "BARK_SYNTH__SLOTS": "1",
        "BARK_LOG_LEVEL": "error",
    }
    async with DiscordServer() as discord:
        world, journal = discord.world, discord.journal
        async with BotProcess(discord, tmp_path, **settings) as bot:
            await discord.join_voice(world.alice, world.lounge)
            await discord.command(world.alice, "bark", text="Playing", to="voice")
            await journal.wait_for("speaking", speaking=1)
            jobs = [
                await discord.command(world.alice, "bark", text=f"Number {n}", to="file")
                for n in range(2)
            ]
            await discord.answered(jobs[1])
            begun_s = time.monotonic()
            bot.process.send_signal(signal.SIGINT)
            assert await bot.process.wait() == 0, bot.log
            assert time.monotonic() - begun_s < STOP_S
            assert world.voice_channel_of(world.bot) is None
            assert jobs[1].attachments or jobs[1].content == replies.STOPPING
            assert "Traceback" not in bot.log
            assert "permissions=274881170432" in bot.log  # the invite, whatever the log leaves out
        assert not discord.failures
