"""Commands, autocomplete and buttons: what was sent to the bot, and what it answered.

Holds Discord's two clocks: 3 seconds to acknowledge, 15 minutes for the token. Knows nothing of
HTTP; `rest.py` calls it and turns `Refused` into a response.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from tests.discord_server.journal import Journal
from tests.discord_server.world import Channel, Payload, User, World, now_iso, snowflake

ACKNOWLEDGE_S = 3.0
TOKEN_S = 15 * 60.0

COMMAND, COMPONENT, AUTOCOMPLETE, MODAL = 2, 3, 4, 5
PONG, MESSAGE, DEFERRED_MESSAGE, DEFERRED_UPDATE, UPDATE, CHOICES, SHOW_MODAL = 1, 4, 5, 6, 7, 8, 9
LOADING, EPHEMERAL = 1 << 7, 1 << 6


class Refused(Exception):
    """What Discord answers in place of doing it: an HTTP status, a code and a sentence."""

    def __init__(self, status: int, code: int, message: str, **extra: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"code": code, "message": message, **extra}


@dataclass(frozen=True)
class Upload:
    """A file as it came in."""

    filename: str
    content_type: str
    data: bytes


@dataclass(frozen=True)
class Attachment:
    id: int
    upload: Upload
    url: str

    @property
    def filename(self) -> str:
        return self.upload.filename

    @property
    def data(self) -> bytes:
        return self.upload.data

    def payload(self) -> Payload:
        return {
            "id": str(self.id),
            "filename": self.filename,
            "size": len(self.data),
            "url": self.url,
            "proxy_url": self.url,
            "content_type": self.upload.content_type,
        }


@dataclass(eq=False)
class Message:
    channel: Channel
    id: int = field(default_factory=snowflake)
    content: str = ""
    embeds: list[Payload] = field(default_factory=list)
    components: list[Payload] = field(default_factory=list)
    attachments: list[Attachment] = field(default_factory=list)
    flags: int = 0
    edits: int = 0
    deleted: bool = False
    interaction: Interaction | None = None

    def fill(self, body: Payload, attachments: list[Attachment]) -> None:
        """Take over what a request names; the rest stays as it is."""
        self.content = body.get("content", self.content) or ""
        self.embeds = body.get("embeds", self.embeds) or []
        self.components = body.get("components", self.components) or []
        self.flags = (self.flags | body.get("flags", 0)) & ~LOADING
        if "attachments" in body:
            kept = {str(entry["id"]) for entry in body["attachments"]}
            self.attachments = [a for a in self.attachments if str(a.id) in kept]
        self.attachments = [*self.attachments, *attachments]

    def buttons(self) -> dict[str, Payload]:
        """Its buttons that can be pressed, by label (or the name of the emoji without one)."""
        found: dict[str, Payload] = {}
        pending = list(self.components)
        while pending:
            component = pending.pop(0)
            pending += component.get("components", [])
            if component.get("type") == 2 and not component.get("disabled"):
                label = component.get("label") or (component.get("emoji") or {}).get("name", "")
                found[label] = component
        return found

    def payload(self, author: User, guild_id: int) -> Payload:
        return {
            "id": str(self.id),
            "channel_id": str(self.channel.id),
            "guild_id": str(guild_id),
            "author": author.payload(),
            "content": self.content,
            "timestamp": now_iso(),
            "edited_timestamp": now_iso() if self.edits else None,
            "tts": False,
            "mention_everyone": False,
            "mentions": [],
            "mention_roles": [],
            "attachments": [attachment.payload() for attachment in self.attachments],
            "embeds": self.embeds,
            "components": self.components,
            "pinned": False,
            "type": 20 if self.interaction else 0,
            "flags": self.flags,
        }


@dataclass(eq=False)
class Interaction:
    """`callback` is the type of the acknowledgement; times are time.monotonic()."""

    type: int
    user: User
    channel: Channel
    data: Payload
    message: Message | None = None  # the message whose button was pressed
    id: int = field(default_factory=snowflake)
    token: str = field(default_factory=lambda: secrets.token_urlsafe(48))
    sent_s: float = field(default_factory=time.monotonic)
    acknowledged_s: float | None = None
    callback: int | None = None
    choices: list[Payload] = field(default_factory=list)
    modal: Payload | None = None
    original: Message | None = None
    followups: list[Message] = field(default_factory=list)
    expired: bool = False

    @property
    def messages(self) -> list[Message]:
        """What the user sees as answers, in order."""
        answers = [self.original] if self.original else []
        return [message for message in answers + self.followups if not message.deleted]

    @property
    def attachments(self) -> list[Attachment]:
        return [attachment for message in self.messages for attachment in message.attachments]

    @property
    def buttons(self) -> list[str]:
        return [label for message in self.messages for label in message.buttons()]

    @property
    def content(self) -> str:
        return "\n".join(message.content for message in self.messages)


class Interactions:
    """All interactions of a run, by id and by token."""

    def __init__(self, world: World, journal: Journal, *, size_limit: int = 10 << 20) -> None:
        self._world = world
        self._journal = journal
        self._by_token: dict[str, Interaction] = {}
        self.size_limit = size_limit

    def create(
        self,
        kind: int,
        user: User,
        channel: Channel,
        data: Payload,
        message: Message | None = None,
    ) -> Interaction:
        interaction = Interaction(kind, user, channel, data, message)
        self._by_token[interaction.token] = interaction
        asyncio.get_running_loop().call_later(ACKNOWLEDGE_S, self._check, interaction)
        return interaction

    def _check(self, interaction: Interaction) -> None:
        if interaction.acknowledged_s is None:
            name = interaction.data.get("name") or interaction.data.get("custom_id")
            self._journal.note("failure", what="no acknowledgement within 3 s", of=name)

    def payload(self, interaction: Interaction) -> Payload:
        world = self._world
        member = world.member(interaction.user)
        member["permissions"] = str(world.permissions(interaction.user, interaction.channel))
        payload = {
            "id": str(interaction.id),
            "application_id": str(world.bot.id),
            "type": interaction.type,
            "token": interaction.token,
            "version": 1,
            "data": interaction.data,
            "guild_id": str(world.guild_id),
            "guild": {"id": str(world.guild_id), "locale": "en-US", "features": []},
            "guild_locale": "en-US",
            "channel_id": str(interaction.channel.id),
            "channel": interaction.channel.payload(world.guild_id),
            "member": member,
            "locale": "en-US",
            "entitlements": [],
            "authorizing_integration_owners": {"0": str(world.guild_id)},
            "context": 0,
            "app_permissions": str(world.permissions(world.bot, interaction.channel)),
            "attachment_size_limit": self.size_limit,
        }
        if interaction.message is not None:
            payload["message"] = interaction.message.payload(world.bot, world.guild_id)
        return payload

    def acknowledge(self, token: str, body: Payload, uploads: list[Attachment]) -> Interaction:
        """Take the callback. Raises Refused when it is late, double or for nothing known."""
        interaction = self._by_token.get(token)
        if interaction is None:
            raise Refused(404, 10062, "Unknown interaction")
        waited_s = time.monotonic() - interaction.sent_s
        if interaction.acknowledged_s is not None:
            self._journal.note("failure", what="acknowledged twice")
            raise Refused(400, 40060, "Interaction has already been acknowledged.")
        if waited_s > ACKNOWLEDGE_S:
            self._journal.note("failure", what="acknowledged late", waited_s=waited_s)
            raise Refused(404, 10062, "Unknown interaction")
        interaction.acknowledged_s = time.monotonic()
        interaction.callback = body["type"]
        data = body.get("data") or {}
        match body["type"]:
            case 4:
                interaction.original = Message(interaction.channel, interaction=interaction)
                interaction.original.fill(data, uploads)
            case 5:
                flags = LOADING | data.get("flags", 0) & EPHEMERAL
                interaction.original = Message(
                    interaction.channel, flags=flags, interaction=interaction
                )
            case 6:
                interaction.original = interaction.message
            case 7:
                interaction.original = interaction.message
                if interaction.message is not None:
                    interaction.message.fill(data, uploads)
                    interaction.message.edits += 1
            case 8:
                interaction.choices = data["choices"]
                if len(interaction.choices) > 25:
                    self._journal.note("failure", what="more than 25 choices")
                    raise Refused(400, 50035, "Invalid Form Body")
            case 9:
                interaction.modal = data
            case _:
                raise Refused(400, 50035, "Invalid Form Body")
        self._journal.note(
            "acknowledged", interaction=interaction, callback=body["type"], waited_s=waited_s
        )
        return interaction

    def of_token(self, token: str) -> Interaction:
        """The interaction a followup belongs to. Raises Refused once its token has expired."""
        interaction = self._by_token.get(token)
        if interaction is None or interaction.acknowledged_s is None:
            raise Refused(404, 10015, "Unknown Webhook")
        if interaction.expired or time.monotonic() - interaction.sent_s > TOKEN_S:
            self._journal.note("expired_token_used", interaction=interaction)
            raise Refused(401, 50027, "Invalid Webhook Token")
        return interaction

    def follow_up(self, token: str, body: Payload, uploads: list[Attachment]) -> Message:
        """The first followup after a deferral fills the deferred message."""
        interaction = self.of_token(token)
        if interaction.original is not None and interaction.original.flags & LOADING:
            message = interaction.original
        else:
            message = Message(interaction.channel, interaction=interaction)
            interaction.followups.append(message)
        message.fill(body, uploads)
        self._journal.note("followup", interaction=interaction, message=message)
        return message

    def message_of(self, token: str, message_id: str) -> Message:
        interaction = self.of_token(token)
        if message_id == "@original":
            candidates = [interaction.original] if interaction.original else []
        else:
            candidates = [
                message for message in interaction.messages if str(message.id) == message_id
            ]
            if interaction.message is not None and str(interaction.message.id) == message_id:
                candidates.append(interaction.message)
        if not candidates or candidates[0].deleted:
            raise Refused(404, 10008, "Unknown Message")
        return candidates[0]

    def message_in(self, channel: Channel, message_id: str) -> Message | None:
        """An answer as a message of its channel: all but ephemeral ones can be had there too."""
        for interaction in self._by_token.values():
            for message in interaction.messages:
                if str(message.id) == message_id and message.channel is channel:
                    return None if message.flags & EPHEMERAL else message
        return None

    def edit(self, token: str, message_id: str, body: Payload, new: list[Attachment]) -> Message:
        message = self.message_of(token, message_id)
        message.fill(body, new)
        message.edits += 1
        self._journal.note(
            "edit", interaction=self.of_token(token), message=message, content=message.content
        )
        return message
