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
_REPORT = PACKETS_PER_S // 2


class PacketStream:
    """The Opus packets of one clip, 20 ms each: all of them, or still growing.

    One thread writes, another may read.
    """

    def __init__(self, packets: Iterable[bytes] = (), *, finished: bool = True) -> None:
        self.packets = list(packets)
        self.finished = finished

    def __len__(self) -> int:
        return len(self.packets)

    def append(self, packets: Iterable[bytes]) -> None:
        """Add packets. Raises RuntimeError after `finish`."""
        if self.finished:
            raise RuntimeError("the stream is finished: no packet can follow")
        self.packets.extend(packets)

    def finish(self) -> None:
        """Say that every packet has been appended."""
        self.finished = True


class OpusSource(discord.AudioSource):
    """Hands a stream's packets to the player thread.

    While `hold()` is true the packets stay where they are and silence is sent, for at most
    `hold_limit_s` seconds on end: after that the source ends with `stalled` set. A stream that has
    run dry goes on when `refill` packets are there, so that there is one pause and not a stutter.
    Called from the reading thread: `on_first_packet` with `clock()` when the first real packet is
    handed over, `on_heard` with the packets handed over so far, twice a second.
    """

    def __init__(
        self,
        stream: PacketStream,
        *,
        refill: int = 1,
        hold: Callable[[], bool] | None = None,
        hold_limit_s: float = 10,
        on_first_packet: Callable[[float], None] | None = None,
        on_heard: Callable[[int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._refill = refill
        self._dry = False
        self._hold = hold
        self._hold_limit = hold_limit_s * PACKETS_PER_S
        self._held = 0
        self._on_first_packet = on_first_packet
        self._on_heard = on_heard
        self._clock = clock
        self.sent = 0  # packets handed to the player
        self.underruns = 0  # times it ran dry
        self.silences = 0  # packets of silence sent for that
        self.stalled = False

    @property
    def due(self) -> int:
        """Packets there are, sent or not."""
        return len(self._stream)

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to send and nothing will come."""
        return self._stream.finished and self.sent >= len(self._stream)

    def rewind(self, packets: int) -> None:
        """Step back so that the last packets are sent again; only while no player reads."""
        self.sent = max(0, self.sent - packets)

    def is_opus(self) -> bool:
        return True

    def read(self) -> bytes:
        # Before looking for a packet: the writer appends, then finishes. In the other order the
        # last packets, appended in between, would be taken for missing and never be sent.
        finished = self._stream.finished
        left = len(self._stream) - self.sent
        if left >= (self._refill if self._dry else 1) or (finished and left):
            if self._hold is not None and self._hold():
                self._held += 1
                if self._held > self._hold_limit:
                    self.stalled = True
                    return b""
                return SILENCE
            self._held = 0
            self._dry = False
            packet = self._stream.packets[self.sent]
            self.sent += 1
            if self._on_first_packet is not None:
                self._on_first_packet(self._clock())
                self._on_first_packet = None
            if self._on_heard is not None and self.sent % _REPORT == 0:
                self._on_heard(self.sent)
            return packet
        if finished:
            return b""
        if not self._dry:
            self._dry, self.underruns = True, self.underruns + 1
        self.silences += 1
        return SILENCE
