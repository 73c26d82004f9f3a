"""Where a clip goes: channel, file, both, and what becomes of it when a way is closed."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import discord
import numpy as np
import pytest

from bot import replies
from bot.commands import bark as bark_command
from bot.delivery import Making, Order
from bot.errors import UserError
from bot.speech import Clip
from bot.store import Outcome
from synth.protocol import Stage
from tests.bot.harness import ScriptedBackend, World, open_world, press, ready


class Channel:
    """A voice channel whose fate the test decides. Implements `bot.delivery.Player`."""

    where = "#lounge"

    def __init__(self, world: World) -> None:
        self.world = world
        self.closed_to: UserError | None = None
        self.prepared_after_s: list[int] = []
        self.played: list[Clip] = []
        self.closed = 0
        self._ends: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def heard(self) -> bool:
        return bool(self.played)

    def prepare(self, order: Order, making: Making) -> None:
        self.prepared_after_s.append(len(self.played))

    def hear(self, samples: np.ndarray, needed_s: float) -> None: ...

    async def play(self, clip: Clip, order: Order) -> Awaitable[object]:
        if self.closed_to is not None:
            raise self.closed_to
        self.played.append(clip)
        return self._playing()

    async def _playing(self) -> None:
        async def ends() -> None:
            await self._ends

        await self.world.env.external_wait(ends(), reason="a clip that plays")

    def end(self, problem: UserError | None = None) -> None:
        if problem is None:
            self._ends.set_result(None)
        else:
            self._ends.set_exception(problem)

    def stop(self) -> None: ...

    async def close(self, *, cut: bool) -> None:
        self.closed += 1


@pytest.fixture
def channel_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes /bark speak in a channel of the test's."""

    def make(world: World, *, wants_file: bool = False) -> Channel:
        channel = Channel(world)
        monkeypatch.setattr(bark_command, "destination", lambda *_: (channel, wants_file, ()))
        return channel

    return make


async def test_a_clip_for_the_channel_only(tmp_path: Path, channel_of: Any) -> None:
    async with open_world(tmp_path) as world:
        channel = channel_of(world)
        result = await world.bark()
        assert channel.prepared_after_s == [0]  # joined while the clip was still being made
        world.worker.speak()
        await world.until(lambda: "in #lounge" in result.response.content or channel.played)
        await world.until(lambda: "#lounge" in result.response.content)
        assert not result.response.attachments
        # The job is over for the caps, though its clip still plays.
        (row,) = await world.client.services.store.history(world.ada.id)
        assert row.outcome is Outcome.DONE and channel.closed == 1
        channel.end()
        await world.env.settle()
        assert not result.response.attachments


async def test_a_clip_for_both(tmp_path: Path, channel_of: Any) -> None:
    async with open_world(tmp_path) as world:
        channel = channel_of(world, wants_file=True)
        response = await world.spoken(await world.bark())
        assert response.attachments and "#lounge" in response.content
        channel.end()
        await world.env.settle()


async def test_a_channel_that_closes_before_the_clip_is_made(
    tmp_path: Path, channel_of: Any
) -> None:
    async with open_world(tmp_path) as world:
        channel_of(world).closed_to = UserError("The channel was deleted.")
        response = await world.spoken(await world.bark())
        assert response.attachments and "The channel was deleted." in response.content
        assert "#lounge" not in response.content


async def test_a_clip_that_is_cut_off_is_posted_with_the_reason(
    tmp_path: Path, channel_of: Any
) -> None:
    async with open_world(tmp_path) as world:
        channel = channel_of(world)
        result = await world.bark()
        world.worker.speak()
        await world.until(lambda: "#lounge" in result.response.content)
        channel.end(UserError("I was disconnected."))
        await world.until(lambda: result.response.attachments)
        assert "I was disconnected." in result.response.content


async def test_stopping_the_bot_leaves_a_posted_clip_alone(tmp_path: Path, channel_of: Any) -> None:
    """The stop replaced the answer of a clip that was still playing, and its file was gone."""
    async with open_world(tmp_path) as world:
        channel_of(world, wants_file=True)
        response = await world.spoken(await world.bark())
        await world.client.services.desk.close()
        assert response.attachments and replies.STOPPING not in response.content


async def test_a_slow_status_does_not_hold_up_the_clip_or_overwrite_it(
    tmp_path: Path, channel_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A status edit that Discord made wait kept the finished clip from being played."""
    async with open_world(tmp_path) as world:
        channel = channel_of(world)
        edit, go_on = discord.Interaction.edit_original_response, asyncio.Event()
        edits: list[str] = []

        async def slowly(interaction: Any, **options: Any) -> Any:
            first = not edits
            edits.append(options["content"])
            if first:

                async def gate() -> None:
                    await go_on.wait()

                await world.env.external_wait(gate(), reason="a rate limit")
            return await edit(interaction, **options)

        monkeypatch.setattr(discord.Interaction, "edit_original_response", slowly)
        result = await world.bark()
        world.clock.now += 2.0
        world.worker.progress(Stage.COARSE, 0.5)
        world.worker.speak()
        async with asyncio.timeout(10):
            while not channel.played:
                await world.env.settle()
        assert len(edits) == 1  # and the second status was held back
        go_on.set()
        await world.until(lambda: "#lounge" in result.response.content)
        assert len(edits) == 2
        channel.end()
        await world.env.settle()


async def test_cancel_comes_too_late_for_a_clip_on_its_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told that its clip was cancelled already."""
    async with open_world(tmp_path) as world:
        transcoder = world.client.services.transcoder
        encode, go_on = transcoder.encode_clip, asyncio.Event()

        async def slowly(*args: Any, **options: Any) -> Any:
            async def gate() -> None:
                await go_on.wait()

            await world.env.external_wait(gate(), reason="an encoder that takes its time")
            return await encode(*args, **options)

        monkeypatch.setattr(transcoder, "encode_clip", slowly)
        result = await world.bark()
        world.worker.speak()
        await world.env.settle()
        custom_id = f"bark:cancel:{world.worker.last.job_id}"
        pressed = await press(world, world.ada, result, custom_id)
        assert pressed.response.content == replies.ALREADY_DONE
        go_on.set()
        await world.until(lambda: result.response.attachments)


async def test_a_second_press_before_the_end_is_told_so(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await world.bark()
        desk = world.client.services.desk
        first = desk.cancel(world.worker.last.job_id)
        second = desk.cancel(world.worker.last.job_id)
        assert (first.name, second.name) == ("CANCELLED", "ALREADY")
        await world.env.settle()


async def test_an_acknowledgement_that_comes_too_late_does_not_lose_the_clip(
    tmp_path: Path,
) -> None:
    async with open_world(tmp_path) as world:
        world.env.inject_error(
            "POST",
            "/interactions/*/*/callback",
            status=404,
            code=10062,
            message="Unknown interaction",
        )
        await world.bark()
        world.worker.speak()
        await world.until(lambda: world.channel.history())
        posted = world.channel.last_message
        assert posted is not None and posted.attachments


async def test_a_file_that_discord_finds_too_large_is_posted_smaller(tmp_path: Path) -> None:
    """Discord's limit may be below the one that came with the request."""
    async with open_world(tmp_path) as world:
        result = await world.bark()
        world.env.inject_error("PATCH", "/webhooks/*", status=413, code=40005, message="Too large")
        response = await world.spoken(result, seconds=2.0)
        assert response.attachments and "encoded smaller" in response.content


async def test_a_file_that_discord_finds_too_large_twice_is_told_plainly(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        result = await world.bark()
        world.env.inject_error("PATCH", "/webhooks/*", status=413, message="Too large", times=2)
        world.worker.speak()
        await world.until(lambda: result.response.content == replies.FILE_REFUSED)
        assert not result.response.attachments
        (row,) = await world.client.services.store.history(world.ada.id)
        assert row.outcome is Outcome.FAILED


async def test_discord_refusing_the_result_is_told_and_written_down(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        result = await world.bark()
        world.env.inject_error("PATCH", "/webhooks/*", status=400, code=50035, message="Invalid")
        world.worker.speak()
        await world.until(lambda: "went wrong" in result.response.content)
        (row,) = await world.client.services.store.history(world.ada.id)
        assert (row.outcome, row.reason) == (Outcome.FAILED, "HTTPException")


def close_the_channel(world: World) -> None:
    """The bot may not post in the channel any more."""
    world.env.inject_error(
        "POST",
        f"/channels/{world.channel.id}/messages",
        status=403,
        code=50013,
        message="Missing Permissions",
        times=None,
    )


async def test_a_late_clip_for_a_closed_channel_goes_to_whoever_asked(tmp_path: Path) -> None:
    """It was lost: after 14 minutes there was only the channel."""
    async with open_world(tmp_path) as world:
        result = await world.bark()
        world.clock.now += 14 * 60
        close_the_channel(world)
        world.worker.speak()
        private = world.ada.user.dm_channel
        await world.until(private.history)
        (posted,) = private.history()
        assert posted.attachments and f"could not post this in <#{world.channel.id}>" in (
            posted.content
        )
        await world.until(lambda: result.response.content == replies.ANSWER_IN_PRIVATE)
        assert not result.response.components
        (row,) = await world.client.services.store.history(world.ada.id)
        assert row.outcome is Outcome.DONE


async def test_a_clip_for_a_place_without_files_goes_to_whoever_asked(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        result = await world.bark()
        world.env.inject_error("PATCH", "/webhooks/*", status=403, code=50013, message="No files")
        close_the_channel(world)
        world.worker.speak()
        await world.until(lambda: result.response.content == replies.ANSWER_IN_PRIVATE)
        assert world.ada.user.dm_channel.history()[0].attachments


async def test_an_outcome_that_nobody_can_be_told_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_world(tmp_path) as world:
        await world.bark()
        job_id = world.worker.last.job_id
        world.clock.now += 14 * 60
        close_the_channel(world)
        world.env.inject_error("POST", "/users/@me/channels", status=403, code=50007, times=None)
        world.worker.speak()
        await world.until(lambda: world.client.services.desk.works(world.guild.id) == [])
        (row,) = await world.client.services.store.history(world.ada.id)
        assert (row.outcome, row.reason) == (Outcome.FAILED, "Untold")
    (record,) = [r for r in caplog.records if job_id in r.getMessage() and r.levelname == "WARNING"]
    assert "cannot be reached" in record.getMessage() and record.exc_info is None


async def test_a_late_answer_for_one_person_is_never_posted_in_the_channel(tmp_path: Path) -> None:
    """A voice's sample, which only its asker was to see, was posted for all after 14 minutes."""
    async with open_world(tmp_path) as world:
        voices: Any = await world.ada.slash(world.channel, "voices", language="German")
        await world.ada.select(
            voices.response.message,
            ["v2/de_speaker_1"],
            custom_id="bark:voices:hear:0:de",
        )
        world.clock.now += 14 * 60
        before = len(world.channel.history())
        world.worker.speak()
        await world.until(world.ada.user.dm_channel.history)
        assert world.ada.user.dm_channel.history()[0].attachments
        assert len(world.channel.history()) == before


async def test_a_servers_notice_is_not_spent_on_one_person(tmp_path: Path) -> None:
    """The server never got to read what one member's sample had said to that member alone."""
    worker = ScriptedBackend(ready(notice="This model makes noise."))
    async with open_world(tmp_path, worker=worker) as world:
        voices: Any = await world.ada.slash(world.channel, "voices", language="German")
        sample: Any = await world.ada.select(
            voices.response.message, ["v2/de_speaker_1"], custom_id="bark:voices:hear:0:de"
        )
        world.worker.speak()
        await world.until(lambda: sample.response.attachments)
        assert "noise" not in sample.response.content
        assert "This model makes noise." in (await world.spoken(await world.bark())).content


async def test_a_stop_after_the_clip_is_posted_leaves_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its outcome was being written down, a stop took the clip away again."""
    async with open_world(tmp_path) as world:
        store = world.client.services.store
        ended, writing, go_on = store.job_ended, asyncio.Event(), asyncio.Event()

        async def slowly(*args: Any, **options: Any) -> None:
            async def gate() -> None:
                await go_on.wait()

            writing.set()
            await world.env.external_wait(gate(), reason="a slow disk")
            await ended(*args, **options)

        monkeypatch.setattr(store, "job_ended", slowly)
        result = await world.bark()
        world.worker.speak()
        await world.until(lambda: result.response.attachments)
        await writing.wait()
        monkeypatch.undo()
        await world.client.services.desk.close()
        assert result.response.attachments and result.response.content != replies.STOPPING
        (row,) = await store.history(world.ada.id)
        assert row.outcome is Outcome.DONE


async def test_a_cancel_between_the_last_event_and_the_clip_comes_too_late(tmp_path: Path) -> None:
    """It was told that its clip would be cancelled, and then the clip came."""
    async with open_world(tmp_path) as world:
        result = await world.bark()
        job_id = world.worker.last.job_id
        world.worker.speak()
        desk, synth = world.client.services.desk, world.client.services.synth
        # Until the client has heard, which is before the desk has.
        while job_id in synth._jobs:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert desk.cancel(job_id).name == "TOO_LATE"
        await world.until(lambda: result.response.attachments)
