"""Where a clip goes: channel, file, both, and what becomes of it when a way is closed."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import discord
import pytest

from bot import replies
from bot.commands import bark as bark_command
from bot.delivery import Order
from bot.errors import UserError
from bot.speech import Clip
from bot.store import Outcome
from synth.protocol import Stage
from tests.bot.harness import World, open_world, press


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

    def prepare(self) -> None:
        self.prepared_after_s.append(len(self.played))

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

    async def close(self) -> None:
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


async def test_discord_refusing_the_result_is_told_and_written_down(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        result = await world.bark()
        world.env.inject_error("PATCH", "/webhooks/*", status=413, code=40005, message="Too large")
        world.worker.speak()
        await world.until(lambda: "went wrong" in result.response.content)
        (row,) = await world.client.services.store.history(world.ada.id)
        assert (row.outcome, row.reason) == (Outcome.FAILED, "HTTPException")
