"""A bot in a voice channel: what its voice websocket carries, and what it sends over UDP.

Holds the transport key and hears what arrives. DAVE's group is `dave.Call`; here its messages are
only carried. Knows nothing of how the connection came about.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import struct
from typing import TYPE_CHECKING, Any

from aiohttp import web
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt
from nacl.exceptions import CryptoError

from tests.discord_server.dave import MAGIC, SILENCE, VERSION, Call
from tests.discord_server.recording import Packet
from tests.discord_server.world import STAGE, Channel, User

if TYPE_CHECKING:
    from tests.discord_server.voice_gateway import VoiceGateway

MODE = "aead_xchacha20_poly1305_rtpsize"
MODES = ["aead_aes256_gcm_rtpsize", MODE]
UNKNOWN_PROTOCOL = 4012  # close code


class VoiceConnection:
    """A bot in a voice channel. `packets` is all it has sent, in order of arrival."""

    near = False
    _ssrcs = itertools.count(1000)

    def __init__(
        self,
        server: VoiceGateway,
        websocket: web.WebSocketResponse,
        transport: asyncio.Transport | None,
        user: User,
        channel: Channel,
        session_id: str,
    ) -> None:
        self._server = server
        self._journal = server.journal
        self._websocket = websocket
        self._transport = transport
        self.user_id = user.id
        self.channel = channel
        self.session_id = session_id
        self.ssrc = next(self._ssrcs)
        self.secret_key = secrets.token_bytes(32)
        self.sequence = 0
        self.call: Call | None = None
        self.open = True
        self.packets: list[Packet] = []
        self._nonces: set[bytes] = set()

    # What it is told

    async def send(self, op: int, data: Any, *, numbered: bool = True) -> None:
        payload: dict[str, Any] = {"op": op, "d": data}
        if numbered:
            self.sequence += 1
            payload["seq"] = self.sequence
        await self._deliver(json.dumps(payload))

    async def _send_binary(self, op: int, data: bytes) -> None:
        self.sequence += 1
        await self._deliver(struct.pack(">HB", self.sequence, op) + data)

    async def _deliver(self, message: str | bytes) -> None:
        if self._websocket.closed:
            return
        try:
            if isinstance(message, str):
                await self._websocket.send_str(message)
            else:
                await self._websocket.send_bytes(message)
        except ConnectionError:
            pass  # cut off in this moment; the read loop notices

    async def external_sender(self, package: bytes) -> None:
        await self._send_binary(25, package)

    async def prepare_epoch(self, package: bytes) -> None:
        await self.send(24, {"epoch": 1, "protocol_version": VERSION})
        await self.external_sender(package)

    async def proposals(self, operation: int, proposals: bytes) -> None:
        await self._send_binary(27, bytes([operation]) + proposals)

    async def announce_commit(self, transition: int, commit: bytes) -> None:
        await self._send_binary(29, struct.pack(">H", transition) + commit)

    async def welcome(self, transition: int, welcome: bytes) -> None:
        await self._send_binary(30, struct.pack(">H", transition) + welcome)

    async def execute(self, transition: int) -> None:
        await self.send(22, {"transition_id": transition})

    def close(self, code: int | None) -> None:
        """End it with a close code, or cut the line without one."""
        self.open = False
        if code is not None:
            self._server.closing.add(self._websocket, code)
        elif self._transport is not None:
            self._transport.abort()

    # What it says

    async def ready(self) -> None:
        await self.send(
            2,
            {
                "ssrc": self.ssrc,
                "ip": "127.0.0.1",
                "port": self._server.udp_port,
                "modes": MODES,
                "experiments": [],
            },
        )

    async def received(self, op: int, data: Any) -> None:
        match op:
            case 1:
                if data["data"]["mode"] != MODE:
                    self.close(UNKNOWN_PROTOCOL)
                    return
                await self._describe_session(data["data"])
            case 5:
                self._journal.note("speaking", speaking=data["speaking"], connection=self)
            case 23 if self.call is not None:
                self._journal.note("dave_ready", transition=data["transition_id"])
                await self.call.ready(self.user_id, data["transition_id"])
            case 31 if self.call is not None:
                await self.call.invalid(self.user_id)
            case _:
                self._journal.note("voice_op", op=op, data=data)

    async def received_binary(self, op: int, data: bytes) -> None:
        if self.call is None:
            self._journal.note("failure", what="a DAVE message outside of a call", op=op)
        elif op == 26:
            await self.call.key_package(self.user_id, data)
        elif op == 28:
            await self.call.commit(self.user_id, data)
        else:
            self._journal.note("failure", what="an unknown binary opcode", op=op)

    async def _describe_session(self, address: dict[str, Any]) -> None:
        encrypted = self.channel.type != STAGE
        others = [
            str(user.id)
            for user in self._server.world.members_in(self.channel)
            if user.id != self.user_id
        ]
        if others:
            await self.send(11, {"user_ids": others})
        await self.send(
            4,
            {
                "mode": MODE,
                "secret_key": list(self.secret_key),
                "audio_codec": "opus",
                "video_codec": "H264",
                "media_session_id": secrets.token_hex(16),
                "dave_protocol_version": VERSION if encrypted else 0,
            },
        )
        self._journal.note(
            "voice_connected", connection=self, channel=self.channel.name, port=address["port"]
        )
        if encrypted:
            self.call = self._server.call(self.channel)
            await self.call.join(self)

    # What it sends over UDP

    def heard(self, arrived_s: float, data: bytes) -> None:
        first, kind, sequence, timestamp, _ = struct.unpack_from(">BBHII", data)
        if (first, kind) != (0x80, 0x78):
            self._journal.note("failure", what="not an RTP packet of Opus", header=data[:12].hex())
            return
        header, body, nonce = data[:12], data[12:-4], data[-4:]
        try:
            frame = crypto_aead_xchacha20poly1305_ietf_decrypt(
                body, header, nonce + bytes(20), self.secret_key
            )
        except CryptoError:
            self._journal.note("failure", what="a packet that does not decrypt")
            return
        if nonce in self._nonces:
            self._journal.note("failure", what="a nonce used twice")
        self._nonces.add(nonce)
        end_to_end = frame.endswith(MAGIC)
        listeners = self._server.listeners_in(self.channel)
        opus: bytes | None = frame
        if end_to_end:
            heard = (listener.decrypt(self.user_id, frame) for listener in listeners)
            opus = next((packet for packet in heard if packet is not None), None)
        settled = self.call is None or self.call.settled
        exposed = (
            bool(listeners)
            and settled
            and not end_to_end
            and frame != SILENCE
            and self.channel.type != STAGE
        )
        self.packets.append(Packet(arrived_s, sequence, timestamp, opus, end_to_end, exposed))
        self._journal.wake()
