"""The main gateway, version 10: hello, identify, resume, heartbeats, dispatches.

One session at a time is enough: one bot, one shard. Dispatches are kept for a resume, also those
made while the bot is away. Knows nothing of what the events mean, except opcode 4.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import WSMsgType, web

from tests.discord_server.closing import Closing
from tests.discord_server.journal import Journal
from tests.discord_server.world import World

PRIVILEGED_INTENTS = 1 << 1 | 1 << 8 | 1 << 15  # members, presences, message content
INTENT_OF_EVENT = {"VOICE_STATE_UPDATE": 1 << 7, "GUILD_CREATE": 1 << 0, "CHANNEL_DELETE": 1 << 0}


class Connection:
    """One websocket, with the zlib stream discord.py asks for."""

    def __init__(
        self,
        websocket: web.WebSocketResponse,
        transport: asyncio.Transport | None,
        *,
        compressed: bool,
    ) -> None:
        self.websocket = websocket
        self.transport = transport
        self._stream = zlib.compressobj() if compressed else None

    async def send(self, payload: dict[str, Any]) -> None:
        if self.websocket.closed:
            return
        text = json.dumps(payload)
        try:
            if self._stream is None:
                await self.websocket.send_str(text)
            else:
                data = self._stream.compress(text.encode())
                await self.websocket.send_bytes(data + self._stream.flush(zlib.Z_SYNC_FLUSH))
        except ConnectionError:
            pass  # the bot left meanwhile; a resume replays it


class Gateway:
    def __init__(
        self,
        world: World,
        journal: Journal,
        *,
        token: str,
        on_voice_state: Callable[[dict[str, Any]], Awaitable[None]],
        heartbeat_interval_s: float,
    ) -> None:
        self._world = world
        self._journal = journal
        self._token = token
        self._on_voice_state = on_voice_state
        self._heartbeat_interval_s = heartbeat_interval_s
        self._connection: Connection | None = None
        self._session_id = ""
        self._history: list[dict[str, Any]] = []
        self._intents = 0
        self._closing = Closing()
        self.url = ""  # told by the server once it has a port
        self.forget_session = False  # refuse the next resume

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse(max_msg_size=4096 * 4)
        await websocket.prepare(request)
        compressed = request.query.get("compress") == "zlib-stream"
        connection = Connection(websocket, request.transport, compressed=compressed)
        self._journal.note("gateway_connected", query=dict(request.query))
        interval_ms = round(self._heartbeat_interval_s * 1000)
        await connection.send({"op": 10, "d": {"heartbeat_interval": interval_ms}})
        try:
            async for message in websocket:
                if message.type is WSMsgType.TEXT:
                    await self._received(connection, json.loads(message.data))
        finally:
            if self._connection is connection:
                self._connection = None
            self._journal.note("gateway_closed", code=websocket.close_code)
        return websocket

    async def _received(self, connection: Connection, message: dict[str, Any]) -> None:
        data: Any = message["d"]
        match message["op"]:
            case 1:
                self._journal.note("heartbeat", sequence=data)
                await connection.send({"op": 11, "d": None})
            case 2:
                await self._identify(connection, data)
            case 4:
                self._journal.note("voice_state_asked", channel_id=data["channel_id"])
                await self._on_voice_state(data)
            case 6:
                await self._resume(connection, data)
            case 8:
                await self._send_members(data)
            case other:
                self._journal.note("gateway_op", op=other)

    async def _identify(self, connection: Connection, data: dict[str, Any]) -> None:
        self._journal.note("identify", intents=data["intents"])
        if data["token"] != self._token:
            await connection.websocket.close(code=4004, message=b"Authentication failed.")
            return
        if data["intents"] & PRIVILEGED_INTENTS:
            self._journal.note("failure", what="asked for a privileged intent")
            await connection.websocket.close(code=4014, message=b"Disallowed intent(s).")
            return
        self._connection = connection
        self._session_id = secrets.token_hex(16)
        self._history = []
        self._intents = data["intents"]
        world = self._world
        await self.dispatch(
            "READY",
            {
                "v": 10,
                "user": world.bot.payload(),
                "guilds": [{"id": str(world.guild_id), "unavailable": True}],
                "session_id": self._session_id,
                "resume_gateway_url": self.url,
                "application": {"id": str(world.bot.id), "flags": 0},
                "shard": [0, 1],
            },
        )
        await self.dispatch("GUILD_CREATE", world.guild())

    async def _resume(self, connection: Connection, data: dict[str, Any]) -> None:
        if data["session_id"] != self._session_id or self.forget_session:
            self.forget_session = False
            self._journal.note("resume_refused")
            await connection.send({"op": 9, "d": False})
            return
        missed = [event for event in self._history if event["s"] > data["seq"]]
        self._journal.note("resume", sequence=data["seq"], missed=len(missed))
        for event in missed:
            await connection.send(event)
        self._connection = connection
        await self.dispatch("RESUMED", {})

    async def _send_members(self, data: dict[str, Any]) -> None:
        wanted = data.get("user_ids")
        members = [
            self._world.member(user)
            for user in self._world.users.values()
            if wanted is None or str(user.id) in map(str, wanted)
        ]
        await self.dispatch(
            "GUILD_MEMBERS_CHUNK",
            {
                "guild_id": str(self._world.guild_id),
                "members": members,
                "chunk_index": 0,
                "chunk_count": 1,
                "not_found": [],
                "nonce": data.get("nonce"),
            },
        )

    @property
    def connected(self) -> bool:
        return self._connection is not None

    async def dispatch(self, event: str, data: dict[str, Any]) -> None:
        """Send an event if the bot's intents cover it; keep it for a resume when it is away."""
        needed = INTENT_OF_EVENT.get(event, 0)
        own = data.get("user_id") == str(self._world.bot.id)
        if needed and not self._intents & needed and not own:
            return
        payload = {"op": 0, "t": event, "s": len(self._history) + 1, "d": data}
        self._history.append(payload)
        if self._connection is not None:
            await self._connection.send(payload)

    def drop(self, *, code: int | None = None) -> None:
        """Lose the bot's connection: with a close code, or as a cut cable does without one."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._journal.note("gateway_dropped", code=code)
        if code is not None:
            self._closing.add(connection.websocket, code)
        elif connection.transport is not None:
            connection.transport.abort()

    async def aclose(self) -> None:
        await self._closing.aclose()

    async def reconnect(self) -> None:
        """Ask the bot to come back, as Discord does before it takes a gateway node down."""
        if self._connection is not None:
            await self._connection.send({"op": 7, "d": None})
