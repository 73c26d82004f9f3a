"""The clocks of an answer, without a Discord."""

import asyncio
from unittest.mock import create_autospec

import discord
import pytest

from bot import answer as answer_module
from bot.answer import Answer
from tests.bot.harness import Clock


@pytest.fixture
def interaction() -> discord.Interaction[discord.Client]:
    made = create_autospec(discord.Interaction, instance=True)
    made.response = create_autospec(discord.InteractionResponse, instance=True)
    made.response.is_done.return_value = False

    async def defer(**_: object) -> None:
        await asyncio.sleep(0)
        made.response.is_done.return_value = True

    made.response.defer.side_effect = defer
    return made


async def test_a_slow_disk_is_acknowledged_and_a_quick_one_is_not(
    interaction: discord.Interaction[discord.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database was waited for before anything was acknowledged: Discord gives 3 s."""
    clock = Clock()
    answer = Answer(interaction, clock)
    assert await answer.in_time(asyncio.sleep(0, "quick")) == "quick"
    assert not interaction.response.is_done()
    clock.now += answer_module.PATIENCE_S  # what came before took it all
    disk = asyncio.Event()
    work = asyncio.create_task(answer.in_time(disk.wait()))
    async with asyncio.timeout(5):
        while not interaction.response.is_done():  # noqa: ASYNC110 (a mock has no event)
            await asyncio.sleep(0)
    assert not work.done()
    disk.set()
    assert await work is True


async def test_two_who_acknowledge_at_once_do_so_once(
    interaction: discord.Interaction[discord.Client],
) -> None:
    answer = Answer(interaction, Clock())
    await asyncio.gather(answer.defer(), answer.defer())
    interaction.response.defer.assert_awaited_once()  # type: ignore[attr-defined]


async def test_giving_up_leaves_nothing_behind(
    interaction: discord.Interaction[discord.Client],
) -> None:
    answer, begun = Answer(interaction, Clock()), asyncio.Event()

    async def forever() -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(answer.in_time(forever()))
    await begun.wait()
    task.cancel()
    await asyncio.wait({task})
    await asyncio.sleep(0)
    assert task.cancelled() and asyncio.all_tasks() == {asyncio.current_task()}
