"""The voice gateway, version 8: handshakes, tokens, who listens where; one port for UDP.

An established connection is a `VoiceConnection`. Knows nothing of the main gateway.
"""

from __future__ import annotations

import json
import secrets
import struct
from typing import Any

from aiohttp import WSMsgType, web

from tests.discord_server.closing import Closing
from tests.discord_server.dave import VERSION, Call, Listener
from tests.discord_server.journal import Journal
from tests.discord_server.recording import Packet
from tests.discord_server.udp import VoiceUdp
from tests.discord_server.voice_connection import VoiceConnection
from tests.discord_server.world import STAGE, Channel, User, World

HEARTBEAT_MS = 13_750

# Close codes
NOT_AUTHENTICATED, AUTHENTICATION_FAILED = 4003, 4004
SESSION_NO_LONGER_VALID, DISCONNECTED, DAVE_REQUIRED = 4006, 4014, 4017


class VoiceGateway:
    """All voice connections, calls and listeners."""

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
        self.journal.note("voice_identified", connection=connection)
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
