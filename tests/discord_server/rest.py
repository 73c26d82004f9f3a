"""The HTTP API as far as a bot with slash commands, files and voice uses it.

Anything else is answered 404 and noted as `unknown_route`. Knows nothing of sockets.
"""

from __future__ import annotations

import json
from typing import Any

from aiohttp import BodyPartReader, web

from tests.discord_server.faults import Faults, json_response
from tests.discord_server.interactions import Attachment, Interactions, Message, Refused, Upload
from tests.discord_server.journal import Journal
from tests.discord_server.world import Channel, Payload, World, snowflake

PREFIX = "/api/v10"


class Rest:
    def __init__(
        self,
        world: World,
        journal: Journal,
        interactions: Interactions,
        faults: Faults,
        *,
        token: str,
    ) -> None:
        self._world = world
        self._journal = journal
        self._interactions = interactions
        self._faults = faults
        self._token = token
        self._attachments: dict[int, Attachment] = {}
        self.commands: dict[int | None, list[Payload]] = {}  # by guild, None for global
        self.messages: list[Message] = []  # posted with the bot's own token
        self.base_url = ""  # told by the server once it has a port
        self.gateway_url = ""

    def application(self) -> web.Application:
        app = web.Application(
            middlewares=[self._refusals, self._faults.middleware], client_max_size=200 << 20
        )
        route = app.router.add_route
        route("GET", f"{PREFIX}/users/@me", self._me)
        route("GET", f"{PREFIX}/users/{{user}}", self._user)
        route("GET", f"{PREFIX}/oauth2/applications/@me", self._application)
        route("GET", f"{PREFIX}/applications/@me", self._application)
        route("GET", f"{PREFIX}/gateway", self._gateway)
        route("GET", f"{PREFIX}/gateway/bot", self._gateway)
        for scope in ("", "/guilds/{guild}"):
            path = f"{PREFIX}/applications/{{application}}{scope}/commands"
            route("GET", path, self._list_commands)
            route("PUT", path, self._set_commands)
        route("POST", f"{PREFIX}/interactions/{{id}}/{{token}}/callback", self._callback)
        hook = f"{PREFIX}/webhooks/{{application}}/{{token}}"
        route("POST", hook, self._follow_up)
        route("GET", f"{hook}/messages/{{message}}", self._get_answer)
        route("PATCH", f"{hook}/messages/{{message}}", self._edit_answer)
        route("DELETE", f"{hook}/messages/{{message}}", self._delete_answer)
        channel = f"{PREFIX}/channels/{{channel}}"
        route("GET", channel, self._channel)
        route("POST", f"{channel}/typing", self._no_content)
        route("POST", f"{channel}/messages", self._post_message)
        route("GET", f"{channel}/messages/{{message}}", self._get_message)
        route("PATCH", f"{channel}/messages/{{message}}", self._edit_message)
        route("DELETE", f"{channel}/messages/{{message}}", self._delete_message)
        route("GET", f"{PREFIX}/guilds/{{guild}}", self._guild)
        route("PATCH", f"{PREFIX}/guilds/{{guild}}/voice-states/@me", self._no_content)
        route("GET", "/attachments/{id}/{filename}", self._download)
        route("*", "/{rest:.*}", self._unknown)
        return app

    @web.middleware
    async def _refusals(self, request: web.Request, handler) -> web.StreamResponse:
        name = f"{request.method} {request.path}"
        authorization = request.headers.get("Authorization")
        needs_token = not request.path.startswith(
            (f"{PREFIX}/webhooks/", f"{PREFIX}/interactions/", "/attachments/")
        )
        try:
            if needs_token and authorization != f"Bot {self._token}":
                raise Refused(401, 0, "401: Unauthorized")
            response = await handler(request)
        except Refused as error:
            response = json_response(error.body, status=error.status)
        self._journal.note("http", request=name, status=response.status)
        return response

    # Who and what

    async def _me(self, _: web.Request) -> web.Response:
        return json_response(self._world.bot.payload())

    async def _user(self, request: web.Request) -> web.Response:
        user = self._world.users.get(int(request.match_info["user"]))
        if user is None:
            raise Refused(404, 10013, "Unknown User")
        return json_response(user.payload())

    async def _application(self, _: web.Request) -> web.Response:
        return json_response(
            {
                "id": str(self._world.bot.id),
                "name": self._world.bot.name,
                "icon": None,
                "description": "",
                "bot_public": True,
                "bot_require_code_grant": False,
                "verify_key": "0" * 64,
                "flags": 0,
                "owner": self._world.owner.payload(),
                "team": None,
                "rpc_origins": [],
                "integration_types_config": {"0": {}},
            }
        )

    async def _gateway(self, _: web.Request) -> web.Response:
        limit = {"total": 1000, "remaining": 999, "reset_after": 3_600_000, "max_concurrency": 1}
        return json_response({"url": self.gateway_url, "shards": 1, "session_start_limit": limit})

    async def _guild(self, request: web.Request) -> web.Response:
        if int(request.match_info["guild"]) != self._world.guild_id:
            raise Refused(404, 10004, "Unknown Guild")
        return json_response(self._world.guild())

    async def _channel(self, request: web.Request) -> web.Response:
        channel = self._channel_of(request)
        return json_response(channel.payload(self._world.guild_id))

    async def _no_content(self, _: web.Request) -> web.Response:
        return web.Response(status=204)

    async def _unknown(self, request: web.Request) -> web.Response:
        self._journal.note("unknown_route", request=f"{request.method} {request.path}")
        raise Refused(404, 0, "404: Not Found")

    # Commands

    async def _list_commands(self, request: web.Request) -> web.Response:
        return json_response(self.commands.get(self._scope(request), []))

    async def _set_commands(self, request: web.Request) -> web.Response:
        scope = self._scope(request)
        commands = [
            {
                "id": str(snowflake()),
                "application_id": str(self._world.bot.id),
                "version": str(snowflake()),
                "default_member_permissions": None,
                "nsfw": False,
                **({"guild_id": str(scope)} if scope else {}),
                **command,
            }
            for command in await request.json()
        ]
        self.commands[scope] = commands
        self._journal.note("synced", guild=scope, names=[c["name"] for c in commands])
        return json_response(commands)

    @staticmethod
    def _scope(request: web.Request) -> int | None:
        guild = request.match_info.get("guild")
        return int(guild) if guild else None

    def command(self, name: str) -> Payload:
        for commands in self.commands.values():
            for command in commands:
                if command["name"] == name:
                    return command
        raise LookupError(f"the bot has registered no command {name!r}")

    # Interactions

    async def _callback(self, request: web.Request) -> web.Response:
        body, uploads = await self._read_body(request)
        interaction = self._interactions.acknowledge(request.match_info["token"], body, uploads)
        if request.query.get("with_response") not in ("1", "true"):
            return web.Response(status=204)
        callback: Payload = {"id": str(interaction.id), "type": interaction.type}
        resource: Payload = {"type": body["type"]}
        if interaction.original is not None:
            callback["response_message_id"] = str(interaction.original.id)
            callback["response_message_loading"] = body["type"] == 5
            callback["response_message_ephemeral"] = bool(interaction.original.flags & 64)
            resource["message"] = self._payload(interaction.original)
        return json_response({"interaction": callback, "resource": resource})

    async def _follow_up(self, request: web.Request) -> web.Response:
        body, uploads = await self._read_body(request)
        message = self._interactions.follow_up(request.match_info["token"], body, uploads)
        return json_response(self._payload(message))

    async def _get_answer(self, request: web.Request) -> web.Response:
        info = request.match_info
        return json_response(
            self._payload(self._interactions.message_of(info["token"], info["message"]))
        )

    async def _edit_answer(self, request: web.Request) -> web.Response:
        body, uploads = await self._read_body(request)
        info = request.match_info
        message = self._interactions.edit(info["token"], info["message"], body, uploads)
        return json_response(self._payload(message))

    async def _delete_answer(self, request: web.Request) -> web.Response:
        info = request.match_info
        self._interactions.message_of(info["token"], info["message"]).deleted = True
        self._journal.note("deleted")
        return web.Response(status=204)

    # Messages with the bot's own token

    def _channel_of(self, request: web.Request) -> Channel:
        channel = self._world.channels.get(int(request.match_info["channel"]))
        if channel is None:
            raise Refused(404, 10003, "Unknown Channel")
        return channel

    def _message_of(self, request: web.Request) -> Message:
        message_id = request.match_info["message"]
        for message in self.messages:
            if str(message.id) == message_id and not message.deleted:
                return message
        if message := self._interactions.message_in(self._channel_of(request), message_id):
            return message
        raise Refused(404, 10008, "Unknown Message")

    async def _post_message(self, request: web.Request) -> web.Response:
        channel = self._channel_of(request)
        body, uploads = await self._read_body(request)
        message = Message(channel)
        message.fill(body, uploads)
        self.messages.append(message)
        self._journal.note("posted", message=message)
        return json_response(self._payload(message))

    async def _get_message(self, request: web.Request) -> web.Response:
        return json_response(self._payload(self._message_of(request)))

    async def _edit_message(self, request: web.Request) -> web.Response:
        message = self._message_of(request)
        body, uploads = await self._read_body(request)
        message.fill(body, uploads)
        message.edits += 1
        self._journal.note("edit", interaction=None, message=message, content=message.content)
        return json_response(self._payload(message))

    async def _delete_message(self, request: web.Request) -> web.Response:
        self._message_of(request).deleted = True
        return web.Response(status=204)

    # Bodies and files

    def _payload(self, message: Message) -> Payload:
        return message.payload(self._world.bot, self._world.guild_id)

    async def _read_body(self, request: web.Request) -> tuple[Payload, list[Attachment]]:
        """JSON, or multipart with `payload_json` and `files[n]`. Raises Refused when too big."""
        if not request.content_type.startswith("multipart/"):
            body: Payload = await request.json() if request.can_read_body else {}
            return body, []
        body, uploads = {}, []
        async for part in await request.multipart():
            assert isinstance(part, BodyPartReader)
            if part.name == "payload_json":
                body = json.loads(await part.text())
                continue
            content_type = part.headers.get("Content-Type", "application/octet-stream")
            data = bytes(await part.read(decode=True))
            uploads.append(Upload(part.filename or "unnamed", content_type, data))
        limit = self._interactions.size_limit
        if any(len(upload.data) > limit for upload in uploads):
            self._journal.note("too_large", sizes=[len(upload.data) for upload in uploads])
            raise Refused(413, 40005, "Request entity too large")
        return body, [self._keep(upload) for upload in uploads]

    def _keep(self, upload: Upload) -> Attachment:
        number = snowflake()
        url = f"{self.base_url}/attachments/{number}/{upload.filename}"
        attachment = Attachment(number, upload, url)
        self._attachments[number] = attachment
        return attachment

    async def _download(self, request: web.Request) -> web.Response:
        attachment = self._attachments.get(int(request.match_info["id"]))
        if attachment is None:
            raise Refused(404, 0, "404: Not Found")
        upload: Any = attachment.upload
        return web.Response(body=upload.data, content_type=upload.content_type.split(";")[0])
