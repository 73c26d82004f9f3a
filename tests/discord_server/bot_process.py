"""The bot as a process of its own, with the stand-in for Discord."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Self

from tests.discord_server.server import DiscordServer

ROOT = Path(__file__).parents[2]
STOP_S = 15
SETTINGS = {
    "BARK_SYNTH__DEVICE": "cpu",
    "BARK_SYNTH__THREADS": "1",
    "BARK_LIMITS__COOLDOWN_S": "0",
    "BARK_LIMITS__CLIP_SECONDS": "2",
    "BARK_VOICE__ALONE_LEAVE_S": "0.3",
}


class BotProcess:
    """`async with` starts it and waits until it has logged in; leaving stops it as a service
    manager would. `log` is what it has printed so far."""

    start_s: float = 60  # a large model needs more

    def __init__(self, server: DiscordServer, folder: Path, **settings: str) -> None:
        self._server = server
        self._folder = folder
        self._settings = settings
        self._output = folder / "bot.log"

    async def __aenter__(self) -> Self:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("BARK_")},
            "PYTHONPATH": str(ROOT),
            "DATA_DIR": str(self._folder / "data"),
            "OMP_NUM_THREADS": "1",
            **self._settings,
            **self._server.environment(),
        }
        command = [sys.executable, str(ROOT / "tests/discord_server/run_bot.py"), "run"]
        with self._output.open("wb") as output:
            self.process = await asyncio.create_subprocess_exec(
                *command, cwd=self._folder, env=environment, stdout=output, stderr=output
            )
        ended = asyncio.create_task(self.process.wait())
        ready = asyncio.create_task(self._server.logged_in(self.start_s))
        try:
            await asyncio.wait({ended, ready}, return_when=asyncio.FIRST_COMPLETED)
            assert not ended.done(), f"the bot ended with {ended.result()}:\n{self.log}"
            await ready
        except BaseException:
            await self.stop()
            raise
        finally:
            ended.cancel()
            ready.cancel()
            await asyncio.gather(ended, ready, return_exceptions=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> int:
        """End it with SIGTERM; SIGKILL when that does not help. Returns its exit status."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.process.wait(), STOP_S)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()
        assert self.process.returncode is not None
        return self.process.returncode

    @property
    def log(self) -> str:
        return self._output.read_text("utf-8", "replace")
