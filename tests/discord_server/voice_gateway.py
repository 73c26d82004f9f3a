"""The voice gateway, version 8, and what a bot sends over UDP.

One connection a bot; it holds the transport key and hears what arrives. DAVE's group is
`dave.Call`; this module only carries its messages. Knows nothing of the main gateway.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import struct
import time
from typing import Any

from aiohttp import WSMsgType, web
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt
from nacl.exceptions import CryptoError

from tests.discord_server.closing import Closing
from tests.discord_server.dave import MAGIC, SILENCE, VERSION, Call, Listener
from tests.discord_server.journal import Journal
from tests.discord_server.recording import Packet
from tests.discord_server.udp import VoiceUdp
from tests.discord_server.world import STAGE, Channel, User, World

MODE = "aead_xchacha20_poly1305_rtpsize"
MODES = ["aead_aes256_gcm_rtpsize", MODE]
HEARTBEAT_MS = 13_750

# Close codes
UNKNOWN_OPCODE, NOT_AUTHENTICATED, AUTHENTICATION_FAILED = 4001, 4003, 4004
SESSION_NO_LONGER_VALID, DISCONNECTED, DAVE_REQUIRED = 4006, 4014, 4017


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
                    self.close(UNKNOWN_OPCODE)
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


class VoiceGateway:
    """All voice connections and listeners; one port for websockets, one for UDP."""

    def __init__(self, world: World, journal: Journal) -> None:
        self.world = world
        self.journal = journal
        self.connections: list[VoiceConnection] = []
        self.closing = Closing()
        self.refuse_next = 0  # how many handshakes to end with "session no longer valid"
        self._tokens: dict[str, int] = {}  # voice token -> user
        self._calls: dict[int, Call] = {}
        self._listeners: dict[int, tuple[Channel, Listener]] = {}
        self._udp = VoiceUdp(self._on_packet)
        self.udp_port = self._udp.port

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_route("GET", "/", self._handle)
        return app

    async def aclose(self) -> None:
        await self.closing.aclose()
        self._udp.close()

    def new_token(self, user: User) -> str:
        token = secrets.token_hex(16)
        self._tokens[token] = user.id
        return token

    def call(self, channel: Channel) -> Call:
        if channel.id not in self._calls:
            self._calls[channel.id] = Call(channel.id, self.journal)
        return self._calls[channel.id]

    @property
    def current(self) -> VoiceConnection | None:
        """The bot's open connection, the newest if it has several."""
        return next((c for c in reversed(self.connections) if c.open), None)

    @property
    def packets(self) -> list[Packet]:
        """All packets of all connections, in order of arrival."""
        return [packet for connection in self.connections for packet in connection.packets]

    # Listeners

    def listeners_in(self, channel: Channel) -> list[Listener]:
        return [listener for where, listener in self._listeners.values() if where is channel]

    async def enter(self, user: User, channel: Channel) -> None:
        """`user` listens in `channel` from now on."""
        await self.exit(user)
        call = self.call(channel)
        listener = Listener(user.id, channel.id, call)
        self._listeners[user.id] = (channel, listener)
        for connection in self.connections:
            if connection.open and connection.channel is channel:
                # The bot could not know: what it sends until it has changed over may be readable.
                call.settled = channel.type == STAGE or len(self.listeners_in(channel)) > 1
                await connection.send(11, {"user_ids": [str(user.id)]})
        if channel.type != STAGE:
            await listener.enter()

    async def exit(self, user: User) -> None:
        channel, listener = self._listeners.pop(user.id, (None, None))
        if listener is None:
            return
        await listener.leave()
        for connection in self.connections:
            if connection.open and connection.channel is channel:
                await connection.send(13, {"user_id": str(user.id)})

    # The websocket

    async def _handle(self, request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        if request.query.get("v") != "8":
            await websocket.close(code=4012)
            return websocket
        hello = {"v": 8, "heartbeat_interval": HEARTBEAT_MS}
        await websocket.send_json({"op": 8, "d": hello})
        connection: VoiceConnection | None = None
        try:
            async for message in websocket:
                if message.type is WSMsgType.BINARY and connection is not None:
                    await connection.received_binary(message.data[0], message.data[1:])
                elif message.type is WSMsgType.TEXT:
                    payload = json.loads(message.data)
                    op, data = payload["op"], payload["d"]
                    if op == 0:
                        connection = await self._identify(request, websocket, data)
                    elif op == 7:
                        # Resuming is refused, as after a crash: the bot must connect anew.
                        self.journal.note("voice_resume_asked")
                        await websocket.close(code=SESSION_NO_LONGER_VALID)
                    elif op == 3:
                        self.journal.note("voice_heartbeat")
                        await websocket.send_json({"op": 6, "d": {"t": data["t"]}})
                    elif connection is not None:
                        await connection.received(op, data)
                    else:
                        await websocket.close(code=NOT_AUTHENTICATED)
        finally:
            if connection is not None:
                connection.open = False
                if connection.call is not None:
                    await connection.call.leave(connection.user_id)
                self.journal.note("voice_closed", connection=connection, code=websocket.close_code)
        return websocket

    async def _identify(
        self, request: web.Request, websocket: web.WebSocketResponse, data: dict[str, Any]
    ) -> VoiceConnection | None:
        state = self.world.voice_states.get(int(data["user_id"]))
        if self.refuse_next > 0:
            self.refuse_next -= 1
            self.journal.note("voice_refused")
            await websocket.close(code=SESSION_NO_LONGER_VALID)
            return None
        if self._tokens.get(data["token"]) != int(data["user_id"]):
            await websocket.close(code=AUTHENTICATION_FAILED)
            return None
        if state is None or state.channel is None or state.session_id != data["session_id"]:
            await websocket.close(code=SESSION_NO_LONGER_VALID)
            return None
        if state.channel.type != STAGE and data.get("max_dave_protocol_version", 0) < VERSION:
            self.journal.note("failure", what="no end-to-end encryption offered")
            await websocket.close(code=DAVE_REQUIRED)
            return None
        connection = VoiceConnection(
            self, websocket, request.transport, state.user, state.channel, state.session_id
        )
        self.connections.append(connection)
        self.journal.note("voice_identified", connection=connection, at_s=time.monotonic())
        await connection.ready()
        return connection

    def _on_packet(self, arrived_s: float, data: bytes) -> None:
        if len(data) < 12 + 16 + 4:
            self.journal.note("failure", what="a datagram too short for RTP", size=len(data))
            return
        ssrc = struct.unpack_from(">I", data, 8)[0]
        for connection in reversed(self.connections):
            if connection.ssrc == ssrc:
                if connection.open:
                    connection.heard(arrived_s, data)
                return
        self.journal.note("failure", what="a packet with an SSRC of nobody", ssrc=ssrc)
