"""Opus packets for discord.py's player thread: never late, never early, never blocking.

The player asks for a packet every 20 ms and makes up for lost time by sending the next ones at
once, so a `read()` that waited would be heard as a burst. When there is nothing to send it gets
silence.
"""

import time
from collections.abc import Callable, Iterable

import discord

SILENCE = b"\xf8\xff\xfe"  # one 20 ms packet of Opus silence; it may travel unencrypted
PACKETS_PER_S = 50


class OpusSource(discord.AudioSource):
    """Opus packets of 20 ms, complete or still growing.

    One thread reads; any thread may `append` and then `finish`. While `hold()` is true the
    packets stay where they are and silence is sent, for at most `hold_limit_s` seconds on end:
    after that the source ends with `stalled` set. `on_first_packet` is called from the reading
    thread with `clock()` when the first real packet is handed over.
    """

    def __init__(
        self,
        packets: Iterable[bytes] = (),
        *,
        finished: bool = True,
        hold: Callable[[], bool] | None = None,
        hold_limit_s: float = 10,
        on_first_packet: Callable[[float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._packets = list(packets)
        self._finished = finished
        self._hold = hold
        self._hold_limit = hold_limit_s * PACKETS_PER_S
        self._held = 0
        self._on_first_packet = on_first_packet
        self._clock = clock
        self.sent = 0  # packets handed to the player
        self.underruns = 0  # times there was nothing to hand over
        self.stalled = False

    @property
    def due(self) -> int:
        """Packets there are, sent or not."""
        return len(self._packets)

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to send and nothing will come."""
        return self._finished and self.sent >= len(self._packets)

    def append(self, packets: Iterable[bytes]) -> None:
        """Add packets while it plays. Raises RuntimeError after `finish`."""
        if self._finished:
            raise RuntimeError("the source is finished: no packet can follow")
        self._packets.extend(packets)

    def finish(self) -> None:
        """Say that every packet has been appended."""
        self._finished = True

    def rewind(self, packets: int) -> None:
        """Step back so that the last packets are sent again; only while no player reads."""
        self.sent = max(0, self.sent - packets)

    def is_opus(self) -> bool:
        return True

    def read(self) -> bytes:
        # Before looking for a packet: the writer appends, then finishes. In the other order the
        # last packets, appended in between, would be taken for missing and never be sent.
        finished = self._finished
        if self.sent < len(self._packets):
            if self._hold is not None and self._hold():
                self._held += 1
                if self._held > self._hold_limit:
                    self.stalled = True
                    return b""
                return SILENCE
            self._held = 0
            packet = self._packets[self.sent]
            self.sent += 1
            if self._on_first_packet is not None:
                self._on_first_packet(self._clock())
                self._on_first_packet = None
            return packet
        if finished:
            return b""
        self.underruns += 1
        return SILENCE
