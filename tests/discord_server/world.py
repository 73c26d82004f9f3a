"""Who and what exists: users, one guild, its channels, who is in which voice channel.

Builds the payloads that describe them. Knows nothing of sockets.
"""

from __future__ import annotations

import datetime
import itertools
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from discord import Permissions

Payload = dict[str, Any]

TEXT, VOICE, STAGE = 0, 2, 13
_EPOCH_MS = 1_420_070_400_000
_counter = itertools.count()


def snowflake() -> int:
    """An id that tells its time, as discord.py reads it from interactions and messages."""
    return (int(time.time() * 1000) - _EPOCH_MS) << 22 | next(_counter) & 0x3FFFFF


def now_iso() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat()


@dataclass(eq=False)
class User:
    name: str
    bot: bool = False
    id: int = field(default_factory=snowflake)
    roles: list[int] = field(default_factory=list)

    def payload(self) -> Payload:
        return {
            "id": str(self.id),
            "username": self.name.lower(),
            "global_name": self.name,
            "discriminator": "0",
            "avatar": None,
            "bot": self.bot,
            "flags": 0,
        }


@dataclass(eq=False)
class Channel:
    name: str
    type: int = TEXT
    id: int = field(default_factory=snowflake)
    user_limit: int = 0
    overwrites: dict[int, tuple[int, int, int]] = field(default_factory=dict)  # type, allow, deny

    def payload(self, guild_id: int) -> Payload:
        payload: Payload = {
            "id": str(self.id),
            "guild_id": str(guild_id),
            "type": self.type,
            "name": self.name,
            "position": 0,
            "parent_id": None,
            "nsfw": False,
            "rate_limit_per_user": 0,
            "last_message_id": None,
            "permission_overwrites": [
                {"id": str(target), "type": kind, "allow": str(allow), "deny": str(deny)}
                for target, (kind, allow, deny) in self.overwrites.items()
            ],
        }
        if self.type in (VOICE, STAGE):
            payload |= {"bitrate": 64_000, "user_limit": self.user_limit, "rtc_region": None}
        return payload


@dataclass(eq=False)
class VoiceState:
    user: User
    channel: Channel | None
    session_id: str
    self_mute: bool = False
    self_deaf: bool = False


@dataclass(frozen=True)
class Role:
    id: int
    name: str
    permissions: int
    position: int = 0
    managed: bool = False

    def payload(self) -> Payload:
        return {
            "id": str(self.id),
            "name": self.name,
            "permissions": str(self.permissions),
            "position": self.position,
            "color": 0,
            "colors": {"primary_color": 0, "secondary_color": None, "tertiary_color": None},
            "hoist": False,
            "managed": self.managed,
            "mentionable": False,
            "flags": 0,
            "icon": None,
            "unicode_emoji": None,
        }


class World:
    """One guild with a text channel, two voice channels and a stage, and three people in it."""

    def __init__(self) -> None:
        self.bot = User("Barker", bot=True)
        self.owner = User("Olive")
        self.alice = User("Alice")
        self.bob = User("Bob")
        self.users = {user.id: user for user in (self.bot, self.owner, self.alice, self.bob)}
        self.guild_id = snowflake()
        self.text = Channel("general")
        self.lounge = Channel("Lounge", VOICE)
        self.attic = Channel("Attic", VOICE)
        self.stage = Channel("Stage", STAGE)
        self.channels = {
            channel.id: channel for channel in (self.text, self.lounge, self.attic, self.stage)
        }
        permissions = Permissions(
            view_channel=True,
            send_messages=True,
            send_messages_in_threads=True,
            embed_links=True,
            attach_files=True,
            read_message_history=True,
            connect=True,
            speak=True,
            use_application_commands=True,
            send_voice_messages=True,
        )
        self.everyone = Role(self.guild_id, "@everyone", permissions.value)
        self.roles = {self.everyone.id: self.everyone}
        self.voice_states: dict[int, VoiceState] = {}

    def voice_channel_of(self, user: User) -> Channel | None:
        state = self.voice_states.get(user.id)
        return state.channel if state else None

    def members_in(self, channel: Channel) -> list[User]:
        return [state.user for state in self.voice_states.values() if state.channel is channel]

    def set_voice(self, user: User, channel: Channel | None) -> VoiceState:
        """Put `user` into `channel` or out of voice; the session id lives as long as they stay."""
        state = self.voice_states.get(user.id)
        if state is None:
            state = VoiceState(user, channel, secrets.token_hex(16))
        state.channel = channel
        if channel is None:
            self.voice_states.pop(user.id, None)
        else:
            self.voice_states[user.id] = state
        return state

    def permissions(self, user: User, channel: Channel) -> int:
        """The computed permissions integer, in Discord's order of overwrites."""
        if user is self.owner:
            return Permissions.all().value
        value = self.everyone.permissions
        for role_id in user.roles:
            value |= self.roles[role_id].permissions
        if Permissions(value).administrator:
            return Permissions.all().value
        allow = deny = 0
        for role_id in user.roles:
            _, allowed, denied = channel.overwrites.get(role_id, (0, 0, 0))
            allow |= allowed
            deny |= denied
        _, everyone_allow, everyone_deny = channel.overwrites.get(self.guild_id, (0, 0, 0))
        _, own_allow, own_deny = channel.overwrites.get(user.id, (1, 0, 0))
        value = value & ~everyone_deny | everyone_allow
        value = value & ~deny | allow
        return value & ~own_deny | own_allow

    # Payloads

    def member(self, user: User) -> Payload:
        return {
            "user": user.payload(),
            "nick": None,
            "avatar": None,
            "roles": [str(role) for role in user.roles],
            "joined_at": "2024-01-01T00:00:00+00:00",
            "premium_since": None,
            "deaf": False,
            "mute": False,
            "pending": False,
            "flags": 0,
            "communication_disabled_until": None,
        }

    def voice_state(self, state: VoiceState, *, with_member: bool = True) -> Payload:
        payload: Payload = {
            "guild_id": str(self.guild_id),
            "channel_id": str(state.channel.id) if state.channel else None,
            "user_id": str(state.user.id),
            "session_id": state.session_id,
            "deaf": False,
            "mute": False,
            "self_deaf": state.self_deaf,
            "self_mute": state.self_mute,
            "self_video": False,
            "suppress": False,
            "request_to_speak_timestamp": None,
        }
        if with_member:
            payload["member"] = self.member(state.user)
        return payload

    def guild(self) -> Payload:
        return {
            "id": str(self.guild_id),
            "name": "The Kennel",
            "owner_id": str(self.owner.id),
            "icon": None,
            "splash": None,
            "discovery_splash": None,
            "banner": None,
            "description": None,
            "afk_channel_id": None,
            "afk_timeout": 300,
            "verification_level": 0,
            "default_message_notifications": 0,
            "explicit_content_filter": 0,
            "mfa_level": 0,
            "nsfw_level": 0,
            "premium_tier": 0,
            "premium_subscription_count": 0,
            "premium_progress_bar_enabled": False,
            "preferred_locale": "en-US",
            "system_channel_id": None,
            "system_channel_flags": 0,
            "rules_channel_id": None,
            "public_updates_channel_id": None,
            "vanity_url_code": None,
            "application_id": None,
            "features": [],
            "emojis": [],
            "stickers": [],
            "roles": [role.payload() for role in self.roles.values()],
            "member_count": len(self.users),
            "large": False,
            "unavailable": False,
            "joined_at": now_iso(),
            # Without the members intent Discord sends the bot itself and those in voice.
            "members": [
                self.member(user)
                for user in self.users.values()
                if user is self.bot or user.id in self.voice_states
            ],
            "channels": [channel.payload(self.guild_id) for channel in self.channels.values()],
            "threads": [],
            "presences": [],
            "voice_states": [
                self.voice_state(state, with_member=False) for state in self.voice_states.values()
            ],
            "stage_instances": [],
            "guild_scheduled_events": [],
            "soundboard_sounds": [],
        }
