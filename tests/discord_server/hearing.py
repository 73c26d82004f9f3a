"""Listening in a test: from a moment on, until enough was heard or a clip has ended."""

from __future__ import annotations

from tests.discord_server import recording
from tests.discord_server.recording import Packet
from tests.discord_server.server import DiscordServer


class Hearing:
    """What is heard from now on."""

    def __init__(self, server: DiscordServer, said_since: int | None = None) -> None:
        """said_since: a journal mark; "speaking" counts from there on."""
        self._server = server
        self._journal = server.journal
        self._mark = server.journal.mark if said_since is None else said_since
        self._first = len(server.voice.packets)

    @property
    def packets(self) -> list[Packet]:
        return self._server.voice.packets[self._first :]

    @property
    def sound(self) -> list[Packet]:
        return recording.sounding(self.packets)

    async def some(self, packets: int) -> None:
        await self._journal.until(lambda: len(self.sound) >= packets, f"{packets} packets")

    async def end(self, clips: int = 1) -> list[Packet]:
        """Wait until so many clips have begun and ended; gives what sounded between silences."""
        mark = self._mark
        for _ in range(clips):  # a player may say more than once that it has ended
            for speaking in (1, 0):
                record = await self._journal.wait_for("speaking", mark, speaking=speaking)
                mark = self._journal.records.index(record)
        return self.sound
