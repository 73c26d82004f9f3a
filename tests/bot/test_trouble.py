"""When something behind the bot fails: plain sentences, nobody waits for ever, the bot goes on."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import discord
import pytest

from bot import replies
from bot.errors import StoreUnavailable
from bot.store import Outcome
from synth.backend import WorkerLost
from synth.errors import EngineFailed
from synth.protocol import Event, Ready, Reason
from tests.bot.harness import ScriptedBackend, open_world, ready


class MortalBackend(ScriptedBackend):
    """A worker that can be killed, and kept from starting again."""

    def __init__(self, ready: Ready) -> None:
        super().__init__(ready)
        self.broken = False
        self.starts = 0
        self._life: asyncio.Future[None] | None = None

    async def start(self) -> Ready:
        self.starts += 1
        if self.broken:
            raise EngineFailed("The speech engine could not be started: its disk is gone.")
        self._life = asyncio.get_running_loop().create_future()
        return await super().start()

    def die(self) -> None:
        assert self._life is not None
        self._life.set_result(None)

    async def events(self) -> AsyncIterator[Event]:
        assert self._life is not None
        events = super().events()
        while True:
            event = asyncio.ensure_future(anext(events))
            await asyncio.wait({event, self._life}, return_when=asyncio.FIRST_COMPLETED)
            if not event.done():
                event.cancel()
                await asyncio.gather(event, return_exceptions=True)
                raise WorkerLost(Reason.CRASHED, "The speech engine crashed.")
            yield event.result()


async def test_a_request_while_the_engine_restarts_waits_for_it(tmp_path: Path) -> None:
    worker = MortalBackend(ready())
    async with open_world(tmp_path, worker=worker) as world:
        lost = await world.bark("The one it dies of")
        worker.die()
        await world.until(lambda: "Your clip is lost" in lost.response.content)
        assert "crashed" in lost.response.content
        waiting = await world.bark("The next one", actor=world.bob)
        async with asyncio.timeout(20):
            while worker.last.text != "The next one":  # noqa: ASYNC110 (the worker has no event)
                await asyncio.sleep(0.01)
        assert (await world.spoken(waiting)).attachments and worker.starts == 2


async def test_an_engine_that_does_not_come_back_is_told_and_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = MortalBackend(ready())
    async with open_world(tmp_path, worker=worker) as world:
        synth = world.client.services.synth
        (supervisor,) = synth._jobs.workers
        try_again, refused = asyncio.Event(), asyncio.Event()

        async def pause(seconds: float) -> None:
            if not worker.broken:
                await asyncio.sleep(seconds)
            elif worker.starts > 3:
                refused.set()
                await try_again.wait()

        monkeypatch.setattr(supervisor, "_sleep", pause)
        worker.broken = True
        worker.die()
        await refused.wait()
        result = await world.bark()
        assert result.ephemeral
        assert result.response.content == (
            "The bot cannot speak at the moment: The speech engine could not be started: "
            "its disk is gone. Try again in a minute."
        )
        (row,) = await world.client.services.store.history(world.ada.id)
        assert (row.outcome, row.reason) == (Outcome.FAILED, "EngineFailed")
        worker.broken = False
        try_again.set()
        async with asyncio.timeout(20):
            while synth._is_down:  # noqa: ASYNC110 (the client has no event for it)
                await asyncio.sleep(0.01)
        assert (await world.spoken(await world.bark())).attachments


async def test_a_full_disk_costs_no_clip_and_no_place_in_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job whose end could not be written down told nobody, and counted as open for ever."""
    async with open_world(tmp_path, per_user=1) as world:
        store = world.client.services.store
        ended, full = store.job_ended, True

        async def write(*args: Any, **options: Any) -> None:
            if full:
                raise StoreUnavailable("The disk is full.")
            await ended(*args, **options)

        monkeypatch.setattr(store, "job_ended", write)
        assert (await world.spoken(await world.bark())).attachments
        refused = await world.bark()
        assert refused.ephemeral and refused.response.content == "The disk is full."
        full = False
        assert (await world.spoken(await world.bark())).attachments
        rows = await store.history(world.ada.id)
        assert [row.outcome for row in rows] == [Outcome.DONE, Outcome.DONE]


async def test_a_stop_during_admission_leaves_no_job_without_an_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job began after the others had been ended, on a database that was being closed."""
    async with open_world(tmp_path) as world:
        services = world.client.services
        admit, at_it, go_on = services.store.admit, asyncio.Event(), asyncio.Event()

        async def slowly(*args: Any, **options: Any) -> Any:
            async def gate() -> None:
                await go_on.wait()

            at_it.set()
            await world.env.external_wait(gate(), reason="a slow disk")
            return await admit(*args, **options)

        monkeypatch.setattr(services.store, "admit", slowly)
        asking = asyncio.create_task(world.bark())
        await at_it.wait()
        closing = asyncio.create_task(services.desk.close())
        await asyncio.sleep(0)
        go_on.set()
        await closing
        result = await asking
        await world.until(lambda: result.response.content == replies.STOPPING)
        assert not world.worker.submits and not services.desk.works(world.guild.id)
        (row,) = await services.store.history(world.ada.id)
        assert row.outcome is Outcome.INTERRUPTED


async def test_a_bot_in_timeout_says_so_and_blames_no_role(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(tmp_path) as world:
        monkeypatch.setattr(discord.Member, "is_timed_out", lambda _: True)
        monkeypatch.setattr(discord.Interaction, "app_permissions", discord.Permissions())
        result = await world.bark()
        assert result.ephemeral and result.response.content == replies.BOT_TIMED_OUT
        assert not world.worker.submits


async def test_a_lost_connection_while_telling_is_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The job's task ended in an exception that nobody saw, and its outcome was told nowhere."""
    async with open_world(tmp_path) as world:

        async def cut(*_: object, **__: object) -> None:
            raise ConnectionResetError("the line is down")

        await world.bark()
        monkeypatch.setattr(discord.Interaction, "edit_original_response", cut)
        world.worker.fail(Reason.TIMEOUT, "The job took too long.")
        async with asyncio.timeout(20):
            while world.client.services.desk.works(world.guild.id):
                await world.env.settle()
        (row,) = await world.client.services.store.history(world.ada.id)
        assert row.outcome is Outcome.FAILED
    assert "its failure could not be told: the line is down" in caplog.text
