"""Playback against a stand-in for Discord: real sockets, real encryption, real player."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from bot.playback import Outcome, VoiceProblem, VoiceReason, VoiceSession, VoiceState
from tests.bot.voice_scene import Bot, clip, joined, likeness, seen, server_guild, until_state
from tests.discord_server import DiscordServer, recording
from tests.discord_server.world import User


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
