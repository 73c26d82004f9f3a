"""The composition root: all servers of the stand-in on loopback, and what a test does with them."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from tests.discord_server.certificates import make_certificates
from tests.discord_server.faults import Fault, Faults
from tests.discord_server.gateway import Gateway
from tests.discord_server.interactions import (
    AUTOCOMPLETE,
    COMMAND,
    COMPONENT,
    Interaction,
    Interactions,
    Message,
)
from tests.discord_server.journal import Journal, Record
from tests.discord_server.rest import PREFIX, Rest
from tests.discord_server.voice_gateway import DISCONNECTED, VoiceGateway
from tests.discord_server.world import Channel, Payload, User, World

# Of a real token's form: an id in base64, a time, a signature.
TOKEN = "MTIzNDU2Nzg5MDEyMzQ1Njc4.GaBcDe.not-a-real-token-only-for-tests-0000"
SUBCOMMAND, GROUP = 1, 2


class DiscordServer:
    """`world`, `journal`, `rest`, `gateway` and `voice` may be used directly."""

    def __init__(self, *, size_limit: int = 10 << 20, heartbeat_s: float = 5) -> None:
        self.world = World()
        self.journal = Journal()
        self._size_limit = size_limit
        self._heartbeat_s = heartbeat_s
        self._runners: list[web.AppRunner] = []

    async def __aenter__(self) -> Self:
        world, journal = self.world, self.journal
        self._folder = tempfile.TemporaryDirectory(prefix="discord-server-")
        self.authority, context = make_certificates(Path(self._folder.name))
        self.faults = Faults(journal)
        self.interactions = Interactions(world, journal, size_limit=self._size_limit)
        self.rest = Rest(world, journal, self.interactions, self.faults, token=TOKEN)
        self.gateway = Gateway(
            world,
            journal,
            token=TOKEN,
            on_voice_state=self._voice_state_asked,
            heartbeat_interval_s=self._heartbeat_s,
        )
        self.voice = VoiceGateway(world, journal)
        gateway_app = web.Application()
        gateway_app.router.add_route("GET", "/", self.gateway.handle)
        rest_port = await self._serve(self.rest.application())
        gateway_port = await self._serve(gateway_app)
        self._voice_port = await self._serve(self.voice.application(), context)
        self.rest.base_url = f"http://127.0.0.1:{rest_port}"
        self.api_url = f"{self.rest.base_url}{PREFIX}"
        self.gateway.url = self.rest.gateway_url = f"ws://127.0.0.1:{gateway_port}/"
        return self

    async def _serve(self, app: web.Application, context: ssl.SSLContext | None = None) -> int:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        self._runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        return runner.addresses[0][1]

    async def __aexit__(self, *_: object) -> None:
        self.gateway.drop(code=1001)
        for connection in self.voice.connections:
            connection.close(1001)
        for runner in self._runners:
            await runner.cleanup()
        await self.voice.aclose()
        await self.gateway.aclose()
        self._folder.cleanup()

    def environment(self) -> dict[str, str]:
        """What `run_bot.py` needs to take this server for Discord."""
        return {
            "DISCORD_TOKEN": TOKEN,
            "SSL_CERT_FILE": str(self.authority),
            "STAND_IN_API": self.api_url,
            "STAND_IN_GATEWAY": self.gateway.url,
        }

    @property
    def failures(self) -> list[Record]:
        """What the bot did that Discord does not forgive."""
        return self.journal.find("failure")

    def fail(self, pattern: str, status: int | None = None, **options: Any) -> Fault:
        """Order a fault for requests whose "METHOD /path" matches; see `faults.Fault`."""
        return self.faults.order(Fault(pattern, status, **options))

    async def logged_in(self, timeout_s: float = 30) -> None:
        await self.journal.wait_for("identify", timeout_s=timeout_s)
        await self.journal.until(lambda: self.gateway.connected, "a session", timeout_s)

    # What a person does

    async def command(
        self, user: User, name: str, channel: Channel | None = None, **options: Any
    ) -> Interaction:
        """Use a slash command: "bark", or "voice set" for one in a group."""
        data = self._command_data(name, options)
        return await self._interact(COMMAND, user, channel or self.world.text, data)

    async def autocomplete(
        self, user: User, name: str, focused: str, **options: Any
    ) -> list[Payload]:
        """Type into option `focused`; gives the choices the bot offers."""
        data = self._command_data(name, options, focused=focused)
        interaction = await self._interact(AUTOCOMPLETE, user, self.world.text, data)
        await self.acknowledged(interaction)
        return interaction.choices

    async def press(self, user: User, message: Message, label: str) -> Interaction:
        """Press the button called `label`. Raises LookupError when it is not there."""
        buttons = message.buttons()
        if label not in buttons:
            raise LookupError(f"no button {label!r} to press, but {sorted(buttons)}")
        data = {"custom_id": buttons[label]["custom_id"], "component_type": 2}
        return await self._interact(COMPONENT, user, message.channel, data, message)

    async def acknowledged(self, interaction: Interaction, timeout_s: float = 5) -> Interaction:
        await self.journal.until(
            lambda: interaction.acknowledged_s is not None, "an acknowledgement", timeout_s
        )
        return interaction

    async def answered(
        self,
        interaction: Interaction,
        condition: Callable[[Interaction], bool] = lambda i: bool(i.content),
        timeout_s: float = 30,
    ) -> Interaction:
        """Wait until what the user sees satisfies `condition`."""
        try:
            await self.journal.until(lambda: condition(interaction), "the answer", timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\nthe user sees: {interaction.content!r}") from None
        return interaction

    async def _interact(
        self,
        kind: int,
        user: User,
        channel: Channel,
        data: Payload,
        message: Message | None = None,
    ) -> Interaction:
        interaction = self.interactions.create(kind, user, channel, data, message)
        await self.gateway.dispatch("INTERACTION_CREATE", self.interactions.payload(interaction))
        return interaction

    def _command_data(self, name: str, values: dict[str, Any], focused: str = "") -> Payload:
        root, *path = name.split()
        command = self.rest.command(root)
        declared = command.get("options", [])
        chain: list[Payload] = []
        for step in path:
            node = next(option for option in declared if option["name"] == step)
            chain.append({"name": step, "type": node["type"]})
            declared = node.get("options", [])
        by_name = {option["name"]: option for option in declared}
        if unknown := values.keys() - by_name.keys():
            raise LookupError(f"/{name} has no option {sorted(unknown)}, but {sorted(by_name)}")
        options = []
        for key, value in values.items():
            choices = by_name[key].get("choices")
            if choices and not focused and value not in [choice["value"] for choice in choices]:
                raise LookupError(f"{key} of /{name} is one of {choices}")
            option = {"name": key, "type": by_name[key]["type"], "value": value}
            options.append(option | ({"focused": True} if key == focused else {}))
        for node in reversed(chain):
            options = [node | {"options": options}]
        return {
            "id": command["id"],
            "name": root,
            "type": 1,
            "options": options,
            "resolved": {},
        }

    # Voice

    async def join_voice(self, user: User, channel: Channel) -> None:
        """A person enters a voice channel and listens."""
        state = self.world.set_voice(user, channel)
        await self.gateway.dispatch("VOICE_STATE_UPDATE", self.world.voice_state(state))
        await self.voice.enter(user, channel)

    async def leave_voice(self, user: User) -> None:
        await self.voice.exit(user)
        state = self.world.set_voice(user, None)
        await self.gateway.dispatch("VOICE_STATE_UPDATE", self.world.voice_state(state))

    async def move_bot(self, channel: Channel) -> None:
        """A moderator drags the bot into another channel."""
        await self._place_bot(channel)

    async def kick_bot(self) -> None:
        """A moderator disconnects the bot from voice."""
        await self._place_bot(None)

    async def delete_channel(self, channel: Channel) -> None:
        """The channel goes, and with it everyone's place in it."""
        for user in self.world.members_in(channel):
            if user is self.world.bot:
                await self._place_bot(None)
            else:
                await self.leave_voice(user)
        del self.world.channels[channel.id]
        await self.gateway.dispatch("CHANNEL_DELETE", channel.payload(self.world.guild_id))

    def drop_voice(self, code: int | None = None) -> None:
        """The voice server loses the bot: with a close code, or as a cut cable without one."""
        connection = self.voice.current
        assert connection is not None, "the bot is not in voice"
        self.journal.note("voice_dropped", code=code)
        connection.close(code)

    async def _voice_state_asked(self, data: dict[str, Any]) -> None:
        """Opcode 4 of the main gateway: the bot wants into a channel, or out of it."""
        channel_id = data["channel_id"]
        channel = self.world.channels.get(int(channel_id)) if channel_id else None
        await self._place_bot(channel, data)

    async def _place_bot(self, channel: Channel | None, data: dict[str, Any] | None = None) -> None:
        bot = self.world.bot
        before = self.world.voice_channel_of(bot)
        connection = self.voice.current
        if channel is None and before is None and data is None:
            return
        state = self.world.set_voice(bot, channel)
        if data is not None:
            state.self_mute, state.self_deaf = data["self_mute"], data["self_deaf"]
        await self.gateway.dispatch("VOICE_STATE_UPDATE", self.world.voice_state(state))
        if channel is not None and channel is not before:
            await self.gateway.dispatch(
                "VOICE_SERVER_UPDATE",
                {
                    "token": self.voice.new_token(bot),
                    "guild_id": str(self.world.guild_id),
                    "endpoint": f"127.0.0.1:{self._voice_port}",
                },
            )
        if connection is not None and channel is not before:
            connection.close(DISCONNECTED)

    async def add_channel(self, channel: Channel) -> None:
        self.world.channels[channel.id] = channel
        await self.gateway.dispatch("CHANNEL_CREATE", channel.payload(self.world.guild_id))
