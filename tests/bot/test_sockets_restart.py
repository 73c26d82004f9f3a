"""The bot as its own process, killed and stopped in the middle of its work."""

from __future__ import annotations

import signal
from pathlib import Path

from bot import replies
from tests.discord_server import DiscordServer
from tests.discord_server.bot_process import SETTINGS, BotProcess
from tests.discord_server.interactions import Interaction
from tests.discord_server.model import write_model

TEXT = "Between the two of us"


async def start_jobs(server: DiscordServer, count: int = 2) -> Interaction:
    """Jobs whose status is shown: the first is worked on, the others wait. Returns the last."""
    jobs = [
        await server.command(server.world.alice, "bark", text=f"{TEXT} {number}", to="file")
        for number in range(count)
    ]
    for job in jobs:
        await server.answered(job, lambda i: "Cancel" in i.buttons or bool(i.attachments))
    # The store answers in turn: after this, where each status is has been written down.
    await server.answered(await server.command(server.world.alice, "voice show"))
    return jobs[-1]


async def test_kill_9_a_new_start_and_a_stop_tell_who_waits(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    settings = SETTINGS | {
        "BARK_SYNTH__MODEL": str(tmp_path / "model"),
        "BARK_SYNTH__SLOTS": "1",
        "BARK_LOG_LEVEL": "debug",
    }
    async with DiscordServer(heartbeat_s=1) as server:
        async with BotProcess(server, tmp_path, **settings) as bot:
            killed = await start_jobs(server)
            bot.process.send_signal(signal.SIGKILL)
            await bot.process.wait()
        assert not killed.attachments
        mark = server.journal.mark
        async with BotProcess(server, tmp_path, **settings) as bot:
            await server.answered(killed, lambda i: i.content == replies.INTERRUPTED)
            assert not killed.buttons
            assert not server.journal.find("synced", mark)  # Discord knows the commands
            stopped = await start_jobs(server)
            assert await bot.stop() == 0, bot.log
        assert stopped.content == replies.STOPPING and not stopped.buttons
        assert "job " in bot.log and TEXT not in bot.log  # whatever the level: it is theirs
        assert not server.failures
