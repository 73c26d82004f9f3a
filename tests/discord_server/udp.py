"""The UDP port of voice: IP discovery, and packets with the time at which the kernel had them.

A thread of its own receives, so that neither a busy event loop nor a test that computes shifts a
packet's time. Knows nothing of encryption.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable

_SO_TIMESTAMPNS = 35  # Linux; Python 3.11 does not name it
_DISCOVERY_BYTES = 74
_ROUND_TRIP_S = 0.01  # discord.py loses an answer that comes before it has begun to listen


class VoiceUdp:
    """`on_packet(arrived_s, data)` runs on the loop; `arrived_s` is on time.monotonic()'s scale."""

    def __init__(self, on_packet: Callable[[float, bytes], None]) -> None:
        self._on_packet = on_packet
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._stamped = sys.platform == "linux"
        if self._stamped:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._offset_s = time.time() - time.monotonic()
        self._closing = False
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="voice-udp", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            data, ancillary, _, address = self._socket.recvmsg(4096, 128)
            arrived_s = time.monotonic()
            if self._closing:
                return
            for level, kind, value in ancillary:
                if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
                    seconds, nanoseconds = struct.unpack("@qq", value[:16])
                    arrived_s = seconds + nanoseconds / 1e9 - self._offset_s
            if len(data) == _DISCOVERY_BYTES and data[:4] == b"\x00\x01\x00\x46":
                self._discover(data, address)
            else:
                self._loop.call_soon_threadsafe(self._on_packet, arrived_s, data)

    def _discover(self, request: bytes, address: tuple[str, int]) -> None:
        time.sleep(_ROUND_TRIP_S)
        reply = bytearray(_DISCOVERY_BYTES)
        struct.pack_into(">HH", reply, 0, 2, 70)
        reply[4:8] = request[4:8]  # the SSRC
        host = address[0].encode()
        reply[8 : 8 + len(host)] = host
        struct.pack_into(">H", reply, 72, address[1])
        self._socket.sendto(reply, address)

    def close(self) -> None:
        self._closing = True
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join(5)
        self._socket.close()
