"""One connection to a voice channel, held to deadlines. Knows no queue and no clip.

discord.py's own recovery from a lost connection can take half a minute or for ever, so it is
switched off: a link that is lost says so at once, and its owner opens another. Being moved to
another channel, and Discord's change of voice server, it recovers from well by itself.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import discord
from discord.gateway import DiscordVoiceWebSocket
from discord.voice_state import ConnectionFlowState, VoiceConnectionState

from bot.opus_source import PACKETS_PER_S, SILENCE
from bot.voice_problems import VoiceChannel, VoiceProblem, VoiceReason

if TYPE_CHECKING:
    from discord.types.voice import GuildVoiceState

T = TypeVar("T")
log = logging.getLogger(__name__)

PACKET_S = 1 / PACKETS_PER_S

# The library's connection is only open to us by its private names; the version is pinned.
# pyright: reportPrivateUsage=false


class VoiceLink(discord.VoiceClient):
    """A voice client that tells `on_lost` once when it is over and was not closed by its owner.

    The argument is True when someone disconnected the bot, False when the connection dropped.
    """

    def __init__(self, client: discord.Client, channel: discord.abc.Connectable) -> None:
        super().__init__(client, channel)
        self.on_lost: Callable[[bool], None] | None = None
        self.kicked = False
        self.lost = False
        # Whether anyone is there to hear. Kept here by the owner, because the player thread must
        # not walk the member cache.
        self.company = False
        self._announced: DiscordVoiceWebSocket | None = None  # told there that sound is coming

    def create_connection_state(self) -> VoiceConnectionState:
        return _Connection(self)

    async def on_voice_state_update(self, data: "GuildVoiceState") -> None:
        # The library clears the flag that tells the two apart, so it is read first.
        if not data["channel_id"] and not self._connection._expecting_disconnect:
            self.kicked = True
        await super().on_voice_state_update(data)

    def cleanup(self) -> None:
        """Called by the library when the connection is over. Keeps the guild's place until
        `release`, so that Discord's confirmation of leaving still finds this link."""
        if not self.lost:
            self.lost = True
            if self.on_lost is not None:
                self.on_lost(self.kicked)

    def release(self) -> None:
        """Make room for another link in this guild, unless one has taken it already."""
        if self._registered:
            super().cleanup()

    def abandon(self) -> None:
        """Take it for lost: the bot has logged in anew, and nothing of the old session holds."""
        self.stop()
        self.cleanup()

    async def hang_up(self) -> None:
        """Finish a lost link: wait for Discord to confirm that the bot is out of the channel.

        Connecting before that, the new link would take the confirmation for its own end.
        """
        if not self._registered:  # nothing will reach it any more
            await self._connection.soft_disconnect()
            self._connection._socket_reader.stop()
        elif not self.kicked:  # then Discord said so itself
            await self._connection._disconnected.wait()

    @property
    def _registered(self) -> bool:
        key, _ = self.channel._get_voice_client_key()
        return self.client._connection._get_voice_client(key) is self

    async def is_usable(self, *, within_s: float) -> bool:
        """Whether it is connected, or will be again when a move to another channel is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not (self.lost or self.is_connected()):
                    await self._connection._state_event.wait()
        return self.is_connected() and not self.lost

    @property
    def exposed(self) -> bool:
        """Whether sound sent now would be heard without the end-to-end encryption that is due.

        Safe to ask from any thread. A stage has none, which its protocol version of 0 says.
        """
        connection = self._connection
        due = self.company and connection.dave_protocol_version > 0
        return due and not connection.can_encrypt

    def wait_until_connected(self, timeout: float | None = 30.0) -> bool:
        """Called by the player thread, which holds a packet and sends it as soon as this returns.

        After a move the new channel's keys come later than the connection.
        """
        started = time.monotonic()
        connected = super().wait_until_connected(timeout)
        while connected and self.exposed and time.monotonic() - started < (timeout or 30.0):
            time.sleep(PACKET_S)
            connected = self.is_connected()
        return connected

    def send_audio_packet(self, data: bytes, *, encode: bool = True) -> None:
        ws = self.ws
        if data != SILENCE and self._announced is not ws and self.is_connected():
            # Between two packets the bot can be moved without the player's notice, and nobody in
            # the new channel has been told whose sound this is. Where the player has told, once
            # more does no harm.
            self._announced = ws
            announcement = ws.speak(discord.SpeakingState.voice)
            try:
                asyncio.run_coroutine_threadsafe(announcement, self.loop)
            except RuntimeError:  # the loop has closed
                announcement.close()
        # The last gate: the keys can go in the moment after the source was asked.
        super().send_audio_packet(SILENCE if self.exposed else data, encode=encode)


class _Connection(VoiceConnectionState):
    async def _wait_for_state(
        self,
        state: ConnectionFlowState,
        *other_states: ConnectionFlowState,
        timeout: float | None = None,  # noqa: ASYNC109 - the library's own signature
    ) -> None:
        # The library waits in a task of its own, which begins a moment after the state was read:
        # of Discord's two answers, the second coming in that moment was missed, and the attempt
        # stood still until its time was over.
        async with asyncio.timeout(timeout):
            while self.state not in (state, *other_states):
                await self._state_event.wait()

    async def _poll_voice_ws(self, reconnect: bool) -> None:
        try:
            await super()._poll_voice_ws(reconnect)
        except (discord.ConnectionClosed, TimeoutError) as error:
            # The library has disconnected and told the link; nobody awaits this task.
            log.info("voice connection lost in guild %s: %s", self.guild.id, error)
        except Exception as error:
            # What the library does not foresee, such as a line that is cut while it answers, ends
            # its task without a word, and the connection would look alive for ever.
            log.info("voice connection broke in guild %s: %r", self.guild.id, error)
            if self.state is not ConnectionFlowState.disconnected:
                await self.disconnect()

    async def _connect(
        self,
        reconnect: bool,
        timeout: float,  # noqa: ASYNC109 - the library's own signature
        self_deaf: bool,
        self_mute: bool,
        resume: bool,
    ) -> None:
        if resume:  # after a voice server's crash this hangs while packets go nowhere
            raise TimeoutError
        await super()._connect(reconnect, timeout, self_deaf, self_mute, resume)


async def open_link(
    channel: VoiceChannel,
    *,
    deadline_s: float,
    disconnect_s: float,
    attempts: int = 3,
    retry_s: float = 0.5,
) -> VoiceLink:
    """Connect to `channel`. Raises VoiceProblem when that fails or takes over `deadline_s`."""
    attempt = _connect(channel, deadline_s, disconnect_s, attempts, retry_s)
    try:
        return await bounded(attempt, deadline_s)
    except BaseException as error:
        await _clear_away(channel, disconnect_s)
        if not isinstance(error, Exception):
            raise
        log.warning("no voice connection to channel %s: %r", channel.id, error)
        raise VoiceProblem(VoiceReason.CONNECT_FAILED, channel) from error


async def _connect(
    channel: VoiceChannel, deadline_s: float, disconnect_s: float, attempts: int, retry_s: float
) -> VoiceLink:
    for left in reversed(range(attempts)):
        try:
            # An attempt that gets no answer (one asked for while an earlier link is being taken
            # down, say) must leave time for another.
            link = await channel.connect(
                timeout=deadline_s / attempts, reconnect=False, self_deaf=True, cls=VoiceLink
            )
        except (discord.ConnectionClosed, TimeoutError):
            await _clear_away(channel, disconnect_s)
            if not left:
                raise
        else:
            # After failed handshakes connect() can return all the same.
            if link.is_connected():
                return link
            kicked = link.kicked
            await close_link(link, disconnect_s)
            if kicked:
                break
        await asyncio.sleep(retry_s)
    raise TimeoutError


async def _clear_away(channel: VoiceChannel, deadline_s: float) -> None:
    """Close what a failed attempt left registered: the library would refuse the next one."""
    link = channel.guild.voice_client
    if isinstance(link, VoiceLink):
        await close_link(link, deadline_s)


async def close_link(link: VoiceLink, deadline_s: float) -> None:
    """Leave the channel; returns within about `deadline_s` whatever Discord does."""
    link.on_lost = None
    # A lost link has said its goodbye; a second one would never be answered.
    goodbye = link.hang_up() if link.lost else link.disconnect(force=True)
    try:
        await bounded(goodbye, deadline_s)
    except TimeoutError:
        log.warning("Discord did not confirm leaving guild %s", link.guild.id)
    except (discord.DiscordException, OSError, RuntimeError) as error:
        log.warning("leaving the voice channel failed", exc_info=error)
    finally:
        link.release()


async def wait_until_encrypted(link: VoiceLink, *, deadline_s: float, poll_s: float = 0.02) -> bool:
    """Wait for end-to-end encryption; False when it is still not up after `deadline_s`.

    connect() returns before the group of listeners has agreed on keys, and there is no event.
    """
    try:
        async with asyncio.timeout(deadline_s):
            while link.exposed:  # noqa: ASYNC110
                await asyncio.sleep(poll_s)
    except TimeoutError:
        return False
    return True


def has_company(channel: VoiceChannel) -> bool:
    """Whether anyone but the bot, other bots included, is in the channel."""
    return any(user_id != channel.guild.me.id for user_id in channel.voice_states)


def has_listeners(channel: VoiceChannel) -> bool:
    """Whether a person is in the channel. Someone not in the cache counts as a person."""
    guild = channel.guild
    others = (guild.get_member(i) for i in channel.voice_states if i != guild.me.id)
    return any(member is None or not member.bot for member in others)


async def bounded(work: Coroutine[Any, Any, T], deadline_s: float) -> T:
    """Await `work` for at most `deadline_s` seconds, else TimeoutError.

    Unlike asyncio.timeout this holds where the callee swallows its cancellation, as discord.py's
    disconnect() does, and a cancellation of the caller then still arrives.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=deadline_s)
        if not task.done():
            raise TimeoutError
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            task.add_done_callback(_ignore_outcome)
            await asyncio.wait({task}, timeout=1)


def _ignore_outcome(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled():
        task.exception()
