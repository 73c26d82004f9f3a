"""What keeps the bot from speaking is named, before anything is tried or in mid-clip."""

from __future__ import annotations

from typing import Any

import discord
import pytest

from bot.playback import Outcome, VoiceProblem
from tests.bot.voice_scene import (
    Bot,
    added_channel,
    change_own_voice_state,
    clip,
    joined,
    put_in_timeout,
    seen,
    server_guild,
    until,
)
from tests.discord_server import DiscordServer


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
