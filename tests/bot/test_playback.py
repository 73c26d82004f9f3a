"""Playback against a stand-in for Discord: real sockets, real encryption, real player."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import discord
import numpy as np
import pytest
import yarl
from discord.gateway import DiscordVoiceWebSocket, DiscordWebSocket
from discord.http import Route
from discord.voice_state import ConnectionFlowState

from bot.opus_source import PacketStream
from bot.playback import (
    Clip,
    Outcome,
    VoiceLimits,
    VoiceProblem,
    VoiceReason,
    VoiceSession,
    VoiceSessions,
    VoiceState,
)
from bot.transcode import Transcoder
from bot.voice_link import VoiceLink
from tests.discord_server import DiscordServer, recording
from tests.discord_server.server import TOKEN
from tests.discord_server.world import VOICE, Channel, User
from tests.synth.sounds import RATE, speech_like

LIMITS = VoiceLimits(join_s=5, encryption_s=2, disconnect_s=1, alone_s=None, idle_s=None, queue=3)


class Bot(discord.Client):
    """A client that does nothing but hand its voice events to playback, as the bot's does."""

    def __init__(self, connector: aiohttp.BaseConnector) -> None:
        intents = discord.Intents.none()
        intents.guilds = intents.voice_states = True
        super().__init__(intents=intents, connector=connector, guild_ready_timeout=0.1)
        self.voices = VoiceSessions(LIMITS)
        self.came_ready = asyncio.Event()

    def limit(self, **limits: float | None) -> None:
        self.voices._limits = VoiceLimits(**{**LIMITS.__dict__, **limits})

    async def on_ready(self) -> None:
        self.voices.on_ready(self)
        self.came_ready.set()

    async def on_voice_state_update(
        self, member: discord.Member, before: discord.VoiceState, after: discord.VoiceState
    ) -> None:
        self.voices.on_voice_state_update(member, before, after)

    async def on_guild_channel_delete(self, channel: discord.abc.GuildChannel) -> None:
        self.voices.on_guild_channel_delete(channel)


@pytest.fixture
async def server() -> AsyncIterator[DiscordServer]:
    async with DiscordServer() as running:
        yield running


@pytest.fixture
async def bot(server: DiscordServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bot]:
    monkeypatch.setattr(Route, "BASE", server.api_url)
    monkeypatch.setattr(DiscordWebSocket, "DEFAULT_GATEWAY", yarl.URL(server.gateway.url))
    context = ssl.create_default_context(cafile=str(server.authority))
    client = Bot(aiohttp.TCPConnector(ssl=context))
    async with client:
        running = asyncio.create_task(client.start(TOKEN))
        await asyncio.wait_for(client.came_ready.wait(), 20)
        yield client
        await client.voices.close()
        await client.close()
        await running


def seen(bot: Bot, channel: Channel) -> discord.VoiceChannel:
    found = bot.get_channel(channel.id)
    assert isinstance(found, discord.VoiceChannel | discord.StageChannel)
    return found  # pyright: ignore[reportReturnType]


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return speech_like(1.2, seed=7)


@pytest.fixture(scope="module")
def packets(speech: np.ndarray) -> list[bytes]:
    return asyncio.run(Transcoder().opus_packets(speech, RATE))


def clip(packets: list[bytes], title: str = "Hello") -> Clip:
    return Clip(PacketStream(packets), title=title, job_id=f"job-{title}", requester_id=1)


async def joined(bot: Bot, server: DiscordServer, listening: bool = True) -> VoiceSession:
    if listening:
        await server.join_voice(server.world.alice, server.world.lounge)
    return await bot.voices.join(seen(bot, server.world.lounge))


def likeness(server: DiscordServer, speech: np.ndarray) -> float:
    """How well what listeners heard, in all, matches what was to be said."""
    heard = recording.decode(recording.sounding(server.voice.packets))
    wanted = np.interp(np.arange(len(speech) * 2) / 2, np.arange(len(speech)), speech)
    return recording.similarity(heard, wanted)[0]


async def test_a_clip_is_heard_whole_even_and_encrypted(
    bot: Bot, server: DiscordServer, packets: list[bytes], speech: np.ndarray
) -> None:
    session = await joined(bot, server)
    assert session.state is VoiceState.READY
    ticket = session.enqueue(clip(packets))
    started = await ticket.started
    result = await ticket
    assert result.outcome is Outcome.FINISHED
    assert result.packets_sent == len(packets) and result.started_at == started
    heard = recording.sounding(server.voice.packets)
    assert likeness(server, speech) > 0.99
    assert recording.missing(heard) == 0
    assert recording.longest_gap_s(heard) < 0.1
    assert not any(packet.exposed for packet in server.voice.packets)
    assert all(packet.end_to_end for packet in heard)
    assert session.queue() == ()
    assert not server.failures


@pytest.mark.parametrize("code", [None, 4006, 4015, 1000])
async def test_a_clip_goes_on_where_the_connection_dropped(
    bot: Bot, server: DiscordServer, packets: list[bytes], speech: np.ndarray, code: int | None
) -> None:
    session = await joined(bot, server)
    ticket = session.enqueue(clip(packets))
    await ticket.started
    await server.journal.until(lambda: len(server.voice.packets) > 20, "some sound")
    server.drop_voice(code)
    result = await ticket
    assert (result.outcome, result.resumed) == (Outcome.FINISHED, True)
    assert len(server.voice.connections) == 2
    assert not any(packet.exposed for packet in server.voice.packets)
    heard = [p for p in server.voice.packets if not p.silent]
    assert len(packets) - 3 <= len(heard) <= len(packets) + 3
    assert not server.failures


async def test_a_line_cut_while_the_library_answers_is_a_drop_too(
    bot: Bot, server: DiscordServer, packets: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """discord.py's task ended with an exception that nobody saw, the connection looked alive, and
    the rest of the clip went nowhere.
    """
    session = await joined(bot, server)
    ticket = session.enqueue(clip(packets))
    await ticket.started

    async def cut(*_: object) -> None:
        monkeypatch.undo()
        raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")

    monkeypatch.setattr(DiscordVoiceWebSocket, "received_message", cut)
    await server.voice.connections[-1].send(6, {"t": 0})  # anything that is answered
    result = await ticket
    assert (result.outcome, result.resumed) == (Outcome.FINISHED, True)
    assert len(server.voice.connections) == 2


async def test_a_clip_that_drops_twice_fails_and_the_next_one_plays(
    bot: Bot, server: DiscordServer, packets: list[bytes]
) -> None:
    session = await joined(bot, server)
    first, second = session.enqueue(clip(packets)), session.enqueue(clip(packets[:20], "Next"))
    for connections in (1, 2):
        await server.journal.until(
            lambda n=connections: (
                len(server.voice.connections) == n
                and len([p for p in server.voice.connections[-1].packets if not p.silent]) > 10
            ),
            "some sound",
        )
        server.drop_voice(4006)
    with pytest.raises(VoiceProblem, match="lost twice") as caught:
        await first
    assert caught.value.reason is VoiceReason.DROPPED
    assert (await second).outcome is Outcome.FINISHED


async def test_after_a_new_login_it_comes_back_and_goes_on(
    bot: Bot, server: DiscordServer, packets: list[bytes]
) -> None:
    """discord.py forgets its guilds and voice connections then, and the session was left deaf."""
    session = await joined(bot, server)
    ticket = session.enqueue(clip(packets * 20))
    await ticket.started
    server.gateway.forget_session = True
    server.world.set_voice(server.world.bot, None)
    server.gateway.drop()
    await server.journal.until(
        lambda: (
            len(server.voice.connections) == 2
            and any(packet.end_to_end for packet in server.voice.connections[1].packets)
        ),
        "sound on a new connection",
    )
    assert ticket.resumed and not ticket.done()
    assert session.guild is server_guild(bot, server)
    assert not any(packet.exposed for packet in server.voice.packets)
    await server.kick_bot()
    with pytest.raises(VoiceProblem, match="The bot was disconnected"):
        await ticket


async def test_a_drop_while_idle_is_mended_unasked(bot: Bot, server: DiscordServer) -> None:
    await joined(bot, server)
    server.drop_voice(None)
    await server.journal.until(lambda: len(server.voice.connections) == 2, "a new connection")
    assert bot.voices.get(server_guild(bot, server)) is not None


async def test_drops_without_end_are_given_up(bot: Bot, server: DiscordServer) -> None:
    session = await joined(bot, server, listening=False)
    for count in range(1, 5):
        await server.journal.until(
            lambda n=count: len(server.journal.find("voice_connected")) == n, "a connection"
        )
        await until_state(session, VoiceState.READY)
        server.drop_voice(4006)
    await until_state(session, VoiceState.CLOSED)
    assert session.closed_because and session.closed_because.reason is VoiceReason.DROPPED


async def test_moved_in_mid_clip_it_goes_on_in_the_new_channel(
    bot: Bot, server: DiscordServer, packets: list[bytes]
) -> None:
    await server.join_voice(server.world.bob, server.world.attic)
    session = await joined(bot, server)
    ticket = session.enqueue(clip(packets))
    await ticket.started
    await server.move_bot(server.world.attic)
    result = await ticket
    assert (result.outcome, result.resumed) == (Outcome.FINISHED, False)
    assert session.channel.id == server.world.attic.id
    assert server.voice.connections[-1].channel is server.world.attic
    assert [p for p in server.voice.connections[-1].packets if not p.silent]
    assert not any(packet.exposed for packet in server.voice.packets)
    assert not server.failures


async def test_moved_where_it_may_not_speak_the_clip_says_so(
    bot: Bot, server: DiscordServer, packets: list[bytes]
) -> None:
    mute = discord.Permissions(speak=True).value
    quiet = await added_channel(server, "Quiet", overwrites={server.world.guild_id: (0, 0, mute)})
    session = await joined(bot, server)
    ticket = session.enqueue(clip(packets))
    await ticket.started
    await server.move_bot(quiet)
    with pytest.raises(VoiceProblem, match=f"may not speak in <#{quiet.id}>"):
        await ticket


async def test_put_in_timeout_it_says_so(
    bot: Bot, server: DiscordServer, packets: list[bytes]
) -> None:
    session = await joined(bot, server)
    ticket = session.enqueue(clip(packets))
    await ticket.started
    await put_in_timeout(bot, server)
    await server.kick_bot()  # as Discord does then
    with pytest.raises(VoiceProblem, match="in timeout"):
        await ticket


@pytest.mark.parametrize("deleted", [False, True])
async def test_sent_away_in_mid_clip_it_stays_away_and_says_why(
    bot: Bot, server: DiscordServer, packets: list[bytes], deleted: bool
) -> None:
    session = await joined(bot, server)
    tickets = [session.enqueue(clip(packets)) for _ in range(2)]
    await tickets[0].started
    if deleted:
        await server.delete_channel(server.world.lounge)
    else:
        await server.kick_bot()
    reasons = []
    for ticket in tickets:
        with pytest.raises(VoiceProblem) as caught:
            await ticket
        reasons.append(caught.value.reason)
    # Discord tells of the empty place and of the channel in either order.
    expected = (
        {VoiceReason.CHANNEL_DELETED, VoiceReason.KICKED} if deleted else {VoiceReason.KICKED}
    )
    assert set(reasons) <= expected
    await session.wait_closed()
    assert len(server.voice.connections) == 1
    assert bot.voices.get(server_guild(bot, server)) is None
    with pytest.raises(VoiceProblem, match="use /join"):
        session.enqueue(clip(packets))
    if not deleted:
        again = await bot.voices.join(seen(bot, server.world.lounge))
        assert again is not session
        assert (await again.enqueue(clip(packets[:10]))).outcome is Outcome.FINISHED


async def test_two_who_ask_at_once_share_one_connection(bot: Bot, server: DiscordServer) -> None:
    await server.join_voice(server.world.alice, server.world.lounge)
    lounge, attic = seen(bot, server.world.lounge), seen(bot, server.world.attic)
    first, second, third = await asyncio.gather(
        bot.voices.join(lounge),
        bot.voices.join(lounge),
        bot.voices.join(attic),
        return_exceptions=True,
    )
    assert isinstance(first, VoiceSession) and first is second
    assert isinstance(third, VoiceProblem) and third.reason is VoiceReason.BUSY_ELSEWHERE
    assert lounge.mention in str(third)
    assert len(server.voice.connections) == 1


async def test_who_gives_up_joining_does_not_take_it_from_the_other(
    bot: Bot, server: DiscordServer
) -> None:
    lounge = seen(bot, server.world.lounge)
    impatient = asyncio.create_task(bot.voices.join(lounge))
    patient = asyncio.create_task(bot.voices.join(lounge))
    await server.journal.wait_for("voice_state_asked")
    impatient.cancel()
    session = await patient
    assert session.state is VoiceState.READY
    assert impatient.cancelled()


async def test_idle_it_comes_over_and_busy_it_does_not(
    bot: Bot, server: DiscordServer, packets: list[bytes]
) -> None:
    session = await joined(bot, server)
    await server.join_voice(server.world.bob, server.world.attic)
    attic, lounge = seen(bot, server.world.attic), seen(bot, server.world.lounge)
    assert await bot.voices.join(attic) is session
    assert session.channel.id == attic.id
    ticket = session.enqueue(clip(packets[:30]))
    with pytest.raises(VoiceProblem, match="The bot is busy in"):
        await bot.voices.join(lounge)
    assert (await ticket).outcome is Outcome.FINISHED
    assert server.world.members_in(server.world.attic) == [server.world.bob, server.world.bot]


async def test_queue_skip_and_stop(bot: Bot, server: DiscordServer, packets: list[bytes]) -> None:
    session = await joined(bot, server)
    first = session.enqueue(clip(packets, "one"))
    await first.started
    tickets = [session.enqueue(clip(packets, name)) for name in ("two", "three", "four")]
    with pytest.raises(VoiceProblem, match="is full .3 waiting"):
        session.enqueue(clip(packets, "five"))
    tickets[1].cancel()
    lines = session.queue()
    assert [(line.title, line.playing) for line in lines] == [
        ("one", True),
        ("two", False),
        ("four", False),
    ]
    assert 0 < lines[0].remaining_s < lines[0].duration_s == len(packets) * 0.02
    skipped = session.skip()
    assert skipped is not None and skipped.title == "one"
    assert (await first).outcome is Outcome.SKIPPED
    await tickets[0].started
    assert session.stop() == 2
    outcomes = [(await ticket).outcome for ticket in tickets]
    assert outcomes == [Outcome.STOPPED] * 3
    assert (await tickets[2].started) is None
    assert session.skip() is None and session.stop() == 0
    assert (await session.enqueue(clip(packets[:5]))).outcome is Outcome.FINISHED


async def test_alone_it_leaves_even_with_a_bot_around_and_fails_what_waits(
    bot: Bot, server: DiscordServer, packets: list[bytes]
) -> None:
    bot.limit(alone_s=0.3)
    session = await joined(bot, server)
    machine = User("Machine", bot=True)
    server.world.users[machine.id] = machine
    await server.join_voice(machine, server.world.lounge)
    ticket = session.enqueue(clip(packets * 5))
    await ticket.started
    await server.leave_voice(server.world.alice)
    with pytest.raises(VoiceProblem) as caught:
        await ticket
    assert caught.value.reason is VoiceReason.EVERYONE_LEFT
    await session.wait_closed()
    assert server.world.voice_channel_of(server.world.bot) is None


async def test_somebody_comes_back_in_time_and_it_stays(
    bot: Bot, server: DiscordServer, packets: list[bytes]
) -> None:
    bot.limit(alone_s=0.5)
    session = await joined(bot, server)
    await server.leave_voice(server.world.alice)
    await server.join_voice(server.world.bob, server.world.lounge)
    ticket = session.enqueue(clip(packets))  # 1.2 s, longer than the timer
    assert (await ticket).outcome is Outcome.FINISHED
    assert session.state is VoiceState.READY
    assert not any(packet.exposed for packet in server.voice.packets)


async def test_with_nothing_to_play_it_leaves(
    bot: Bot, server: DiscordServer, packets: list[bytes]
) -> None:
    bot.limit(idle_s=0.4)
    session = await joined(bot, server)
    assert (await session.enqueue(clip(packets[:40]))).outcome is Outcome.FINISHED  # 0.8 s
    await until_state(session, VoiceState.CLOSED)
    assert session.closed_because and session.closed_because.reason is VoiceReason.IDLE


async def test_one_who_comes_in_during_a_clip_hears_nothing_unencrypted(
    bot: Bot, server: DiscordServer, packets: list[bytes]
) -> None:
    session = await joined(bot, server, listening=False)
    ticket = session.enqueue(clip(packets))
    await ticket.started
    await server.join_voice(server.world.alice, server.world.lounge)
    assert (await ticket).outcome is Outcome.FINISHED
    assert not any(packet.exposed for packet in server.voice.packets)
    assert any(packet.end_to_end for packet in server.voice.packets)


async def test_while_keys_are_missing_the_clip_waits_and_only_silence_leaves(
    bot: Bot, server: DiscordServer, packets: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The player sends the packet it holds right after a move, before the new keys are there."""
    session = await joined(bot, server)
    ticket = session.enqueue(clip(packets))
    await ticket.started
    link = session._link
    assert link is not None and ticket.source is not None
    exposed = True
    monkeypatch.setattr(VoiceLink, "exposed", property(lambda _: exposed))
    held = asyncio.create_task(asyncio.to_thread(link.wait_until_connected, 5))
    link.send_audio_packet(packets[0], encode=False)
    mark, sent = len(server.voice.packets), ticket.source.sent
    await server.journal.until(lambda: len(server.voice.packets) > mark + 10, "packets")
    assert all(packet.silent for packet in server.voice.packets[mark + 1 :])
    assert ticket.source.sent <= sent + 1
    assert not held.done()
    exposed = False
    assert await held
    assert (await ticket).outcome is Outcome.FINISHED
    heard = [packet for packet in server.voice.packets if not packet.silent]
    assert len(packets) - 1 <= len(heard) <= len(packets)


async def test_without_encryption_it_says_nothing_and_says_so(
    bot: Bot, server: DiscordServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot.limit(encryption_s=0.3)

    async def never(*_: object) -> None: ...

    monkeypatch.setattr("tests.discord_server.dave.Call.join", never)
    with pytest.raises(VoiceProblem) as caught:
        await joined(bot, server)
    assert caught.value.reason is VoiceReason.NO_ENCRYPTION
    assert not [packet for packet in server.voice.packets if not packet.silent]


async def test_failed_handshakes_are_tried_again_and_given_up_by_the_deadline(
    bot: Bot, server: DiscordServer
) -> None:
    server.voice.refuse_next = 1
    session = await joined(bot, server)
    assert session.state is VoiceState.READY
    await session.leave()
    server.voice.refuse_next = 99
    with pytest.raises(VoiceProblem) as caught:
        await bot.voices.join(seen(bot, server.world.lounge))
    assert caught.value.reason is VoiceReason.CONNECT_FAILED
    guild = server_guild(bot, server)
    assert guild.voice_client is None and bot.voices.get(guild) is None


async def test_joining_and_leaving_end_by_their_deadlines_when_discord_is_silent(
    bot: Bot, server: DiscordServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot.limit(join_s=0.5, disconnect_s=0.3)
    session = await joined(bot, server)

    async def silence(*_: object, **__: object) -> None: ...

    monkeypatch.setattr(server, "_place_bot", silence)
    async with asyncio.timeout(5):
        await session.leave()
        with pytest.raises(VoiceProblem) as caught:
            await bot.voices.join(seen(bot, server.world.attic))
    assert caught.value.reason is VoiceReason.CONNECT_FAILED
    assert server_guild(bot, server).voice_client is None


@pytest.mark.parametrize("turns", range(6))
async def test_discords_second_answer_is_seen_however_soon_it_comes(
    bot: Bot, server: DiscordServer, turns: int
) -> None:
    """Three turns of the loop after the first one, it fell into a gap of the library's."""
    connection = VoiceLink(bot, seen(bot, server.world.lounge))._connection
    try:
        connection.state = ConnectionFlowState.set_guild_voice_state
        both = ConnectionFlowState.got_both_voice_updates
        waiting = asyncio.create_task(connection._wait_for_state(both))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        connection.state = ConnectionFlowState.got_voice_state_update
        for _ in range(turns):
            await asyncio.sleep(0)
        connection.state = both
        async with asyncio.timeout(1):
            await waiting
        with pytest.raises(TimeoutError):
            await connection._wait_for_state(ConnectionFlowState.connected, timeout=0.01)
    finally:
        connection._socket_reader.stop()


async def test_an_attempt_without_an_answer_is_tried_again(
    bot: Bot, server: DiscordServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One attempt that nobody answered used to take the whole time there is for joining."""
    bot.limit(join_s=6.0)
    asked, place = 0, server._place_bot

    async def deaf_at_first(*args: Any, **kwargs: Any) -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            await place(*args, **kwargs)

    monkeypatch.setattr(server, "_place_bot", deaf_at_first)
    session = await joined(bot, server)
    assert session.state is VoiceState.READY and asked > 1


async def test_leaving_ends_everything(
    bot: Bot, server: DiscordServer, packets: list[bytes]
) -> None:
    session = await joined(bot, server)
    playing, waiting = session.enqueue(clip(packets)), session.enqueue(clip(packets))
    await playing.started
    await session.leave()
    for ticket in (playing, waiting):
        with pytest.raises(VoiceProblem, match="asked to leave"):
            await ticket
    assert server.world.voice_channel_of(server.world.bot) is None
    assert not [t for t in asyncio.all_tasks() if t.get_name() in ("voice player", "voice join")]
    await session.leave()  # a second time is no error


async def test_leaving_in_the_middle_of_joining(bot: Bot, server: DiscordServer) -> None:
    joining = asyncio.create_task(bot.voices.join(seen(bot, server.world.lounge)))
    await server.journal.wait_for("voice_state_asked")
    await bot.voices.close()
    with pytest.raises((VoiceProblem, asyncio.CancelledError)):
        await joining
    assert server_guild(bot, server).voice_client is None
    with pytest.raises(VoiceProblem, match="being restarted"):
        await bot.voices.join(seen(bot, server.world.lounge))


@pytest.mark.parametrize("permission", ["view_channel", "connect", "speak"])
async def test_a_missing_permission_is_named_before_anything_is_tried(
    bot: Bot, server: DiscordServer, permission: str
) -> None:
    denied = discord.Permissions(**{permission: True}).value
    channel = await added_channel(
        server, "Closed", overwrites={server.world.guild_id: (0, 0, denied)}
    )
    await until(lambda: bot.get_channel(channel.id) is not None)
    with pytest.raises(VoiceProblem) as caught:
        await bot.voices.join(seen(bot, channel))
    assert permission.split("_")[0].title() in str(caught.value)
    assert caught.value.reason.value.startswith("missing_")
    assert not server.journal.find("voice_state_asked")


async def test_a_full_channel_and_a_timeout_are_named(bot: Bot, server: DiscordServer) -> None:
    full = await added_channel(server, "Full", user_limit=1)
    await server.join_voice(server.world.alice, full)
    await until(lambda: bool(bot.get_channel(full.id) and seen(bot, full).voice_states))
    with pytest.raises(VoiceProblem, match="is full"):
        await bot.voices.join(seen(bot, full))
    await put_in_timeout(bot, server)
    with pytest.raises(VoiceProblem, match="in timeout"):
        await bot.voices.join(seen(bot, server.world.lounge))


async def test_a_member_cannot_send_the_bot_where_they_may_not_go(
    bot: Bot, server: DiscordServer
) -> None:
    locked = discord.Permissions(connect=True).value
    alice, me = server.world.alice, server.world.bot
    channel = await added_channel(
        server, "Locked", overwrites={alice.id: (1, 0, locked), me.id: (1, locked, 0)}
    )
    await server.join_voice(alice, server.world.lounge)
    await until(lambda: bot.get_channel(channel.id) is not None)
    member = server_guild(bot, server).get_member(alice.id)
    assert member is not None
    with pytest.raises(VoiceProblem, match="You may not join"):
        await bot.voices.join(seen(bot, channel), member)


async def test_server_muted_in_mid_clip_is_named(
    bot: Bot, server: DiscordServer, packets: list[bytes]
) -> None:
    session = await joined(bot, server)
    ticket = session.enqueue(clip(packets))
    await ticket.started
    await change_own_voice_state(server, mute=True)
    with pytest.raises(VoiceProblem, match="server-muted"):
        await ticket
    with pytest.raises(VoiceProblem, match="server-muted"):
        session.enqueue(clip(packets))
    await change_own_voice_state(server, mute=False)
    await until(lambda: not server_guild(bot, server).me.voice.mute)  # pyright: ignore
    assert (await session.enqueue(clip(packets[:5]))).outcome is Outcome.FINISHED


async def test_on_a_stage_it_is_heard_and_in_the_audience_it_says_so(
    bot: Bot, server: DiscordServer, packets: list[bytes]
) -> None:
    await server.join_voice(server.world.alice, server.world.stage)
    session = await bot.voices.join(seen(bot, server.world.stage))
    assert (await session.enqueue(clip(packets[:10]))).outcome is Outcome.FINISHED
    await change_own_voice_state(server, suppress=True)
    guild = server_guild(bot, server)
    await until(lambda: guild.me.voice.suppress)  # pyright: ignore
    with pytest.raises(VoiceProblem, match="in the audience"):
        session.enqueue(clip(packets))


async def test_in_a_stages_audience_it_asks_to_speak_and_waits_there(
    bot: Bot, server: DiscordServer, packets: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_it_is = server.world.voice_state

    def suppressed(state: Any, **options: Any) -> dict[str, Any]:
        return as_it_is(state, **options) | {"suppress": state.user is server.world.bot}

    monkeypatch.setattr(server.world, "voice_state", suppressed)
    stage = seen(bot, server.world.stage)
    with pytest.raises(VoiceProblem, match="in the audience"):
        await bot.voices.join(stage)
    assert [r for r in server.journal.records if "voice-states/@me" in str(r.data)]
    monkeypatch.undo()
    await change_own_voice_state(server)  # a moderator lets it speak
    guild = server_guild(bot, server)
    await until(lambda: guild.me.voice is not None and not guild.me.voice.suppress)
    session = await bot.voices.join(stage)
    assert (await session.enqueue(clip(packets[:5]))).outcome is Outcome.FINISHED


async def put_in_timeout(bot: Bot, server: DiscordServer) -> None:
    punished = server.world.member(server.world.bot)
    punished["communication_disabled_until"] = "2999-01-01T00:00:00+00:00"
    punished["guild_id"] = str(server.world.guild_id)
    await server.gateway.dispatch("GUILD_MEMBER_UPDATE", punished)
    await until(lambda: server_guild(bot, server).me.is_timed_out())


async def added_channel(server: DiscordServer, name: str, **options: Any) -> Channel:
    channel = Channel(name, VOICE, **options)
    await server.add_channel(channel)
    return channel


def server_guild(bot: Bot, server: DiscordServer) -> discord.Guild:
    guild = bot.get_guild(server.world.guild_id)
    assert guild is not None
    return guild


async def change_own_voice_state(server: DiscordServer, **changes: bool) -> None:
    state = server.world.voice_states[server.world.bot.id]
    await server.gateway.dispatch("VOICE_STATE_UPDATE", server.world.voice_state(state) | changes)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until `condition` holds: events need a few turns to arrive."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the client has no event for each of them
            await asyncio.sleep(0.005)


async def until_state(session: VoiceSession, state: VoiceState) -> None:
    await until(lambda: session.state is state)
    if state is VoiceState.CLOSED:
        await session.wait_closed()
