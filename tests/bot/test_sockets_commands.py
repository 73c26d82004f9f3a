"""The bot as its own process, asked for files over real sockets: answers, limits, lost lines."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest

from tests.discord_server import DiscordServer, recording
from tests.discord_server.bot_process import BotProcess
from tests.discord_server.interactions import DEFERRED_MESSAGE, EPHEMERAL, Interaction

pytest_plugins = ["tests.discord_server.fixtures"]
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.usefixtures("clean"),
    pytest.mark.timeout(120),  # the first one waits for the bot to start
]

A_SHORT_EDIT_PERIOD_S = 1.9  # the bot's own is 2 s; the edits' ways over the socket differ


async def bark(server: DiscordServer, text: str = "Hello there", **options) -> Interaction:
    options = {"to": "file", "format": "flac", "seed": 7} | options
    return await server.command(server.world.alice, "bark", text=text, **options)


async def bark_file(server: DiscordServer, text: str = "Hello there", **options) -> Interaction:
    interaction = await bark(server, text, **options)
    return await server.answered(interaction, lambda i: bool(i.attachments))


async def test_logs_in_and_registers_its_commands(
    discord: DiscordServer, barker: BotProcess
) -> None:
    [synced] = discord.journal.find("synced")
    assert "bark" in synced["names"]
    [identify] = discord.journal.find("identify")
    assert identify["intents"] == 1 << 0 | 1 << 7  # guilds, voice states
    assert "permissions=274881170432" in barker.log  # the invite


async def test_posts_the_clip_it_was_asked_for(discord: DiscordServer) -> None:
    mark = discord.journal.mark
    interaction = await bark_file(discord, seed=11)
    assert interaction.callback == DEFERRED_MESSAGE
    assert "seed 11" in interaction.content
    [attachment] = interaction.attachments
    samples = recording.read_clip(attachment.data)
    assert 1 < len(samples) / recording.RATE <= 2.1
    assert samples.std() > 0.01
    assert not interaction.buttons  # nothing is left to cancel
    edits = [r.at_s for r in discord.journal.find("edit", mark) if r["interaction"] is interaction]
    status = edits[:-1]  # the last one brings the clip and may come at any time
    for before, after in zip(status, status[1:], strict=False):
        assert after - before > A_SHORT_EDIT_PERIOD_S


async def test_same_seed_gives_the_same_clip(discord: DiscordServer) -> None:
    first = await bark_file(discord)
    second = await bark_file(discord)
    other = await bark_file(discord, seed=8)
    clips = [recording.read_clip(i.attachments[0].data) for i in (first, second, other)]
    assert np.array_equal(clips[0], clips[1])
    assert not np.array_equal(clips[0], clips[2])


async def test_voices_are_offered_while_typing(discord: DiscordServer) -> None:
    choices = await discord.autocomplete(discord.world.alice, "bark", "text", text="Hello [lau")
    assert any("[laughs]" in choice["value"] for choice in choices)
    assert all(len(choice["value"]) <= 100 for choice in choices)


async def three_jobs(server: DiscordServer, last: str = "Number two of three") -> list[Interaction]:
    """The last of them waits for two others, and shows its button."""
    jobs = [await bark(server, text) for text in ("Number zero", "Number one", last)]
    await server.answered(jobs[2], lambda i: "Cancel" in i.buttons)
    return jobs


async def test_cancel_ends_the_job_and_says_so(discord: DiscordServer) -> None:
    # Long enough not to be over before the press, were the bot ever so slow to get to it.
    *others, job = await three_jobs(discord, "This goes on, and on, and on, and on. " * 40)
    pressed = await discord.press(discord.world.alice, job.messages[0], "Cancel")
    await discord.answered(job, lambda i: not i.buttons)
    assert "cancel" in job.content.lower() and not job.attachments
    await discord.answered(pressed)
    for other in others:
        await discord.answered(other, lambda i: bool(i.attachments))


async def test_only_who_asked_may_cancel(discord: DiscordServer) -> None:
    jobs = await three_jobs(discord)
    pressed = await discord.press(discord.world.bob, jobs[2].messages[0], "Cancel")
    await discord.answered(pressed)
    assert pressed.messages[0].flags & EPHEMERAL
    for job in jobs:
        await discord.answered(job, lambda i: bool(i.attachments))


async def test_rate_limit_and_server_errors_do_not_lose_the_clip(discord: DiscordServer) -> None:
    limited = discord.fail("PATCH .*/webhooks/", 429, times=2, retry_after_s=0.5)
    broken = discord.fail("PATCH .*/webhooks/", 503, times=1)
    interaction = await bark_file(discord)
    assert limited.times == broken.times == 0
    assert len(interaction.attachments) == 1


async def test_lost_gateway_is_resumed_in_the_middle_of_a_job(discord: DiscordServer) -> None:
    mark = discord.journal.mark
    interaction = await bark(discord)
    await discord.acknowledged(interaction)
    discord.gateway.drop()
    missed = await bark(discord, "Sent while the line is down")
    await discord.journal.wait_for("resume", mark)
    for job in (interaction, missed):
        await discord.answered(job, lambda i: bool(i.attachments))
    assert not discord.journal.find("synced", mark)


async def test_forgotten_session_is_begun_anew(discord: DiscordServer) -> None:
    mark = discord.journal.mark
    discord.gateway.forget_session = True
    discord.gateway.drop(code=4009)
    await discord.journal.wait_for("resume_refused", mark)
    await discord.journal.wait_for("identify", mark)
    await bark_file(discord)
    assert not discord.journal.find("synced", mark)  # the commands are known already


async def test_clip_over_the_size_limit_is_made_to_fit(
    discord: DiscordServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discord.interactions, "size_limit", 30_000)
    interaction = await bark_file(discord, format="wav")
    [attachment] = interaction.attachments
    assert len(attachment.data) <= 30_000
    assert not discord.journal.find("too_large")
    assert re.search(r"too big|smaller|first \d+ of", interaction.content)


async def test_answer_goes_to_the_channel_once_the_token_is_spent(discord: DiscordServer) -> None:
    mark = discord.journal.mark
    interaction = await bark(discord)
    await discord.answered(interaction)
    interaction.expired = True
    posted = await discord.journal.wait_for("posted", mark)
    assert posted["message"].channel is discord.world.text
    assert posted["message"].attachments


async def test_heartbeats_go_on_while_clips_are_made(discord: DiscordServer) -> None:
    """Generation on the event loop once cost a bot of this kind its connection."""
    mark = discord.journal.mark
    begun_s = time.monotonic()
    for job in await three_jobs(discord):
        await discord.answered(job, lambda i: bool(i.attachments))
    await discord.journal.wait_for("heartbeat", discord.journal.mark)
    times = [begun_s, *(record.at_s for record in discord.journal.find("heartbeat", mark))]
    assert max(b - a for a, b in zip(times, times[1:], strict=False)) < 3  # they are due each 1 s
