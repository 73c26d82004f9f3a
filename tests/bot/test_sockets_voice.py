"""The bot as its own process, heard in voice channels over real sockets.

What arrives is decrypted twice, decoded, and compared with the clip's FLAC file, posted alongside.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from discord import Permissions

from tests.discord_server import DiscordServer, recording
from tests.discord_server.bot_process import BotProcess
from tests.discord_server.hearing import Hearing
from tests.discord_server.interactions import Interaction
from tests.discord_server.recording import Packet, Samples
from tests.discord_server.world import Channel, User

pytest_plugins = ["tests.discord_server.fixtures"]
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.usefixtures("silence"),
    pytest.mark.timeout(120),  # the first one waits for the bot to start
]

SIMILAR = 0.99
LONGEST_GAP_S = 0.25  # six packets late at most: a busy host delays the sender itself
LARGEST_BURST = 6  # what a gap of that length holds back comes at once


@pytest_asyncio.fixture(loop_scope="module")
async def silence(discord: DiscordServer, clean: None) -> AsyncIterator[None]:
    """Each test begins and ends with nobody in voice."""
    yield
    world = discord.world
    for person in (world.alice, world.bob):
        if world.voice_channel_of(person):
            await discord.leave_voice(person)
    await discord.journal.until(lambda: world.voice_channel_of(world.bot) is None, "leaving")
    await discord.journal.until(lambda: discord.voice.current is None, "hanging up")


async def bark(server: DiscordServer, text: str = "Hello there", **options) -> Interaction:
    options = {"to": "both", "format": "flac", "seed": 7} | options
    return await server.command(server.world.alice, "bark", text=text, **options)


async def file_of(server: DiscordServer, interaction: Interaction) -> Samples:
    await server.answered(interaction, lambda i: bool(i.attachments))
    return recording.read_clip(interaction.attachments[0].data)


def place_in(clip: Samples, packets: list[Packet]) -> tuple[float, float, float]:
    """How well what was heard fits into the clip, and where: from, to, in seconds."""
    heard = recording.decode(packets)
    score, start = recording.similarity(clip, heard)
    return score, start / recording.RATE, (start + len(heard)) / recording.RATE


def assert_even(packets: list[Packet]) -> None:
    assert recording.longest_gap_s(packets) <= LONGEST_GAP_S
    assert recording.largest_burst(packets) <= LARGEST_BURST


def assert_private(packets: list[Packet]) -> None:
    assert packets
    assert not any(packet.exposed for packet in packets)
    assert all(packet.opus is not None for packet in packets)


async def test_listener_hears_what_was_synthesized(
    discord: DiscordServer, barker: BotProcess
) -> None:
    await discord.join_voice(discord.world.alice, discord.world.lounge)
    hearing = Hearing(discord)
    interaction = await bark(discord, "Hear me out, to the very end")
    clip = await file_of(discord, interaction)
    packets = await hearing.end()

    assert f"<#{discord.world.lounge.id}>" in interaction.content
    assert_private(hearing.packets)
    assert all(packet.end_to_end for packet in packets)
    assert recording.missing(packets) == 0
    score, _ = recording.similarity(recording.decode(packets), clip)
    assert score >= SIMILAR
    assert_even(packets)

    reply_latency_s = packets[0].arrived_s - interaction.sent_s
    [*_, line] = re.findall(r"audio_s=(\S+) ttfa_ms=(\S+) rtf=(\S+)", barker.log)
    audio_s, rtf = float(line[0]), float(line[2])
    logging.getLogger(__name__).info(
        "reply_latency %.2f s, synthesis %.2f s, on top %.2f s; clip %.2f s, correlation %.4f, "
        "longest gap %.0f ms, largest burst %d",
        reply_latency_s,
        audio_s * rtf,
        reply_latency_s - audio_s * rtf,
        audio_s,
        score,
        recording.longest_gap_s(packets) * 1000,
        recording.largest_burst(packets),
    )


async def test_clips_play_one_after_the_other(discord: DiscordServer) -> None:
    await discord.join_voice(discord.world.alice, discord.world.lounge)
    hearing = Hearing(discord)
    jobs = [await bark(discord, seed=seed) for seed in (1, 2)]
    clips = [await file_of(discord, job) for job in jobs]
    heard = recording.decode(await hearing.end(clips=2))
    assert_private(hearing.packets)
    for clip in clips:  # whole and unmixed, wherever it is
        score, _ = recording.similarity(heard, clip)
        assert score >= SIMILAR


async def test_dropped_connection_resumes_the_clip(discord: DiscordServer) -> None:
    await discord.join_voice(discord.world.alice, discord.world.lounge)
    before = Hearing(discord)
    interaction = await bark(discord)
    clip = await file_of(discord, interaction)
    await before.some(40)
    discord.drop_voice()
    first = before.sound
    after = Hearing(discord)
    second = await after.end()

    assert_private(first + second)
    score, begin, stopped = place_in(clip, first)
    assert score >= SIMILAR
    assert abs(begin) < 0.05
    score, resumed, end = place_in(clip, second)
    assert score >= SIMILAR
    assert abs(resumed - stopped) < 0.5  # what was on its way when the line was cut is lost
    assert end > len(clip) / recording.RATE - 0.1
    assert len(discord.voice.connections[-1].packets) >= len(second)


async def test_clip_dropped_twice_is_posted(discord: DiscordServer) -> None:
    await discord.join_voice(discord.world.alice, discord.world.lounge)
    interaction = await bark(discord, to="voice")
    for _ in range(2):
        hearing = Hearing(discord)
        await hearing.some(15)
        assert_private(hearing.packets)
        discord.drop_voice()
    await discord.answered(interaction, lambda i: "lost twice" in i.content)
    assert interaction.attachments


async def test_clip_goes_on_where_the_bot_is_moved(discord: DiscordServer) -> None:
    world = discord.world
    await discord.join_voice(world.alice, world.lounge)
    await discord.join_voice(world.bob, world.attic)
    hearing = Hearing(discord)
    interaction = await bark(discord)
    clip = await file_of(discord, interaction)
    await hearing.some(40)
    mark = discord.journal.mark
    await discord.move_bot(world.attic)
    await discord.journal.wait_for("voice_connected", mark, channel="Attic")
    upstairs = Hearing(discord, said_since=mark)
    await upstairs.end()
    assert_private(hearing.packets)
    # A decoder that comes in the middle takes some packets to agree with one that heard it all.
    score, begin, end = place_in(clip, upstairs.sound)
    assert score >= SIMILAR - 0.01
    assert begin > 0.7
    assert end > len(clip) / recording.RATE - 0.1


async def test_kicked_bot_stays_away_until_it_is_asked_again(discord: DiscordServer) -> None:
    world = discord.world
    await discord.join_voice(world.alice, world.lounge)
    hearing = Hearing(discord)
    interaction = await bark(discord, to="voice")
    await hearing.some(20)
    mark = discord.journal.mark
    await discord.kick_bot()
    await discord.answered(interaction, lambda i: "disconnected" in i.content)
    assert interaction.attachments  # the clip itself is not lost
    assert not [r for r in discord.journal.find("voice_state_asked", mark) if r["channel_id"]]
    again = Hearing(discord)
    await bark(discord)
    assert_private(await again.end())


async def test_second_listener_comes_in_the_middle(discord: DiscordServer) -> None:
    world = discord.world
    await discord.join_voice(world.alice, world.lounge)
    hearing = Hearing(discord)
    interaction = await bark(discord)
    clip = await file_of(discord, interaction)
    await hearing.some(30)
    mark = discord.journal.mark
    await discord.join_voice(world.bob, world.lounge)
    executed = await discord.journal.wait_for("dave_executed", mark)
    assert sorted(executed["members"]) == sorted(u.id for u in (world.alice, world.bob, world.bot))
    packets = await hearing.end()
    assert_private(packets)
    assert all(packet.end_to_end for packet in packets)
    score, _ = recording.similarity(recording.decode(packets), clip)
    assert score >= SIMILAR
    assert_even(packets)


async def test_nothing_is_readable_while_keys_are_made_anew(discord: DiscordServer) -> None:
    """A broken welcome before the clip, a new group in the middle of it: silence, then the rest."""
    world = discord.world
    call = discord.voice.call(world.lounge)
    call.spoil_next_welcome = True
    await discord.join_voice(world.alice, world.lounge)
    hearing = Hearing(discord)
    interaction = await bark(discord)
    clip = await file_of(discord, interaction)
    assert discord.journal.find("dave_invalid_commit")
    await hearing.some(30)
    mark = discord.journal.mark
    await call.recreate()
    await discord.journal.wait_for("dave_executed", mark)
    packets = await hearing.end()
    assert_private(packets)
    heard = recording.decode([packet for packet in packets if not packet.silent])
    score, _ = recording.similarity(heard, clip)
    assert score >= SIMILAR
    assert_even(packets)


async def test_lost_gateway_does_not_disturb_a_clip(discord: DiscordServer) -> None:
    await discord.join_voice(discord.world.alice, discord.world.lounge)
    hearing = Hearing(discord)
    clip = await file_of(discord, await bark(discord))
    await hearing.some(20)
    mark = discord.journal.mark
    discord.gateway.drop()
    await discord.journal.wait_for("resume", mark)
    packets = await hearing.end()
    score, _ = recording.similarity(recording.decode(packets), clip)
    assert score >= SIMILAR
    assert_even(packets)


async def test_two_channels_at_once(discord: DiscordServer) -> None:
    """One voice a server: who comes second gets the file, and is told where the bot is."""
    world = discord.world
    await discord.join_voice(world.alice, world.lounge)
    await discord.join_voice(world.bob, world.attic)
    jobs = [
        await discord.command(person, "bark", text="Me first", to="voice", seed=7)
        for person in (world.alice, world.bob)
    ]
    await discord.answered(jobs[0], lambda i: f"<#{world.lounge.id}>" in i.content)
    await discord.answered(jobs[1], lambda i: bool(i.attachments))
    assert f"busy in <#{world.lounge.id}>" in jobs[1].content


async def test_stage_has_no_end_to_end_encryption(discord: DiscordServer) -> None:
    await discord.join_voice(discord.world.alice, discord.world.stage)
    hearing = Hearing(discord)
    interaction = await bark(discord)
    clip = await file_of(discord, interaction)
    packets = await hearing.end()
    assert not any(packet.end_to_end for packet in packets)
    score, _ = recording.similarity(recording.decode(packets), clip)
    assert score >= SIMILAR


async def test_skip_and_stop(discord: DiscordServer) -> None:
    world = discord.world
    await discord.join_voice(world.alice, world.lounge)
    hearing = Hearing(discord)
    jobs = [await bark(discord, to="voice", seed=seed) for seed in (1, 2, 3)]
    for job in jobs:
        await discord.answered(job, lambda i: "seed" in i.content)
    await hearing.some(20)
    skipped = await discord.answered(await discord.command(world.alice, "skip"))
    assert "Skipped" in skipped.content
    after = Hearing(discord)
    await after.some(20)
    await discord.answered(await discord.command(world.alice, "stop"))
    assert_private(hearing.packets)


async def test_join_queue_and_leave(discord: DiscordServer) -> None:
    world = discord.world

    async def told(name: str) -> str:
        return (await discord.answered(await discord.command(world.alice, name))).content

    assert "You are in no voice channel" in await told("join")
    await discord.join_voice(world.alice, world.lounge)
    assert await told("join") == f"Joined <#{world.lounge.id}>; /bark speaks there now."
    assert world.voice_channel_of(world.bot) is world.lounge
    assert "Nothing is playing" in await told("queue")
    assert await told("skip") == await told("stop") == "Nothing is playing."
    hearing = Hearing(discord)
    await bark(discord, "Number one", to="voice")
    await hearing.some(10)
    assert (await told("queue")).startswith(f"▶ Number one · <@{world.alice.id}>")
    assert await told("leave") == "Left the voice channel."
    assert world.voice_channel_of(world.bot) is None
    assert await told("leave") == "The bot is in no voice channel here."


async def test_leave_holds_for_clips_that_are_still_being_made(discord: DiscordServer) -> None:
    """The bot once came back after /leave, to play what had been asked for before."""
    world = discord.world
    await discord.join_voice(world.alice, world.lounge)
    hearing = Hearing(discord)
    jobs = [await bark(discord, to="voice", seed=seed) for seed in (1, 2, 3)]
    await hearing.some(1)
    mark = discord.journal.mark
    await discord.answered(await discord.command(world.alice, "leave"))
    assert world.voice_channel_of(world.bot) is None
    for job in jobs:
        await discord.answered(job, lambda i: "asked to leave" in i.content)
        assert job.attachments
    assert not [r for r in discord.journal.find("voice_state_asked", mark) if r["channel_id"]]


async def refused(server: DiscordServer, channel: Channel, person: User) -> str:
    await server.join_voice(person, channel)
    interaction = await server.command(person, "bark", text="Hello", to="voice")
    await server.answered(interaction)
    return interaction.content


async def test_missing_permission_is_named(
    discord: DiscordServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot = discord.world.bot
    mute = Channel("Muted", 2, overwrites={bot.id: (1, 0, Permissions(speak=True).value)})
    await discord.add_channel(mute)
    assert "Speak permission" in await refused(discord, mute, discord.world.alice)
    locked = Channel("Locked", 2, overwrites={bot.id: (1, 0, Permissions(connect=True).value)})
    await discord.add_channel(locked)
    assert "Connect permission" in await refused(discord, locked, discord.world.alice)


async def test_deleted_channel_and_lost_handshakes(discord: DiscordServer) -> None:
    """The first handshakes fail: it comes in all the same, and survives the channel's end."""
    gone = Channel("Short-lived", 2)
    await discord.add_channel(gone)
    await discord.join_voice(discord.world.alice, gone)
    discord.voice.refuse_next = 2
    hearing = Hearing(discord)
    interaction = await bark(discord, to="voice")
    await hearing.some(20)
    await discord.delete_channel(gone)
    await discord.answered(interaction, lambda i: "deleted" in i.content)
    assert_private(hearing.packets)
