"""One voice connection: handshakes, encryption, deadlines."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import aiohttp
import pytest
from discord.gateway import DiscordVoiceWebSocket
from discord.voice_state import ConnectionFlowState

from bot.playback import Outcome, VoiceProblem, VoiceReason, VoiceState
from bot.voice_link import VoiceLink
from tests.bot.voice_scene import Bot, clip, joined, seen, server_guild
from tests.discord_server import DiscordServer


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


async def test_a_move_that_the_player_did_not_notice_is_announced(
    bot: Bot, server: DiscordServer, packets: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two packets the bot was in the new channel, where nobody was told of its sound."""
    session = await joined(bot, server)
    ticket = session.enqueue(clip(packets))
    await ticket.started
    source = ticket.source
    assert source is not None
    moved = threading.Event()
    read = source.read

    def wait_and_read() -> bytes:
        moved.wait(20)
        return read()

    monkeypatch.setattr(source, "read", wait_and_read)
    mark = server.journal.mark
    await server.move_bot(server.world.attic)
    await server.journal.wait_for("voice_connected", mark, channel="Attic")
    link = session._link
    assert link is not None
    await link.is_usable(within_s=10)
    mark = server.journal.mark
    moved.set()
    await server.journal.wait_for("speaking", mark, speaking=1)
    assert (await ticket).outcome is Outcome.FINISHED
    assert len(server.journal.find("speaking", mark, speaking=1)) == 1


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
