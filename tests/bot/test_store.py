"""The database: caps, outcomes, migrations, and a real kill -9."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bot.database import open_database
from bot.errors import StartError, StoreUnavailable
from bot.store import (
    MIGRATIONS,
    Cap,
    NewJob,
    Outcome,
    Preference,
    Refused,
    Store,
    open_store,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "data" / "bot.sqlite3", clock) as store:
        yield store


def job(job_id: str, user_id: int = 1, guild_id: int | None = 7) -> NewJob:
    return NewJob(
        job_id=job_id,
        user_id=user_id,
        guild_id=guild_id,
        channel_id=3,
        voice="v2/en_speaker_6",
        seed=5,
        text_length=11,
    )


async def admit(store: Store, new: NewJob, cooldown_s: float = 0.0) -> Refused | None:
    return await store.admit(new, per_user=2, per_guild=3, cooldown_s=cooldown_s)


async def test_caps_are_counted_from_the_jobs(store: Store) -> None:
    assert await admit(store, job("a")) is None
    assert await admit(store, job("b")) is None
    assert await admit(store, job("c")) == Refused(Cap.USER, count=2)
    assert await admit(store, job("d", user_id=2)) is None
    assert await admit(store, job("e", user_id=3)) == Refused(Cap.GUILD, count=3)
    assert await admit(store, job("f", user_id=3, guild_id=None)) is None
    await store.job_ended("a", Outcome.FAILED, reason="crashed")
    await store.job_ended("a", Outcome.CANCELLED)
    assert await admit(store, job("g")) is None


async def test_a_cooldown_tells_what_is_left(store: Store, clock: Clock) -> None:
    await admit(store, job("a"))
    clock.now += 4
    assert await admit(store, job("b"), cooldown_s=10) == Refused(Cap.COOLDOWN, wait_s=6)
    clock.now -= 3600  # the machine's clock was set back
    assert await admit(store, job("b"), cooldown_s=10) is None


async def test_two_requests_at_once_cannot_pass_one_cap(store: Store) -> None:
    results = await asyncio.gather(*(admit(store, job(str(n))) for n in range(6)))
    assert sum(result is None for result in results) == 2


async def test_a_job_keeps_its_times_and_first_outcome(store: Store, clock: Clock) -> None:
    await admit(store, job("a"))
    clock.now += 1
    await store.job_started("a")
    await store.job_message("a", 99)
    clock.now += 2
    await store.job_ended("a", Outcome.DONE, audio_s=4.5)
    await store.job_ended("a", Outcome.FAILED, reason="late")
    row = await store.job("a")
    assert row is not None
    assert (row.requested_at, row.started_at, row.ended_at) == (1e6, 1e6 + 1, 1e6 + 3)
    assert (row.outcome, row.audio_s, row.message_id, row.reason) == (Outcome.DONE, 4.5, 99, "")
    assert await store.history(1) == [row]
    assert await store.job("zzz") is None


async def test_preferences_and_facts(store: Store) -> None:
    preference = Preference("v2/de_speaker_1", "bark")
    assert await store.user_voice(1) is None
    await store.set_user_voice(1, preference)
    await store.set_user_voice(1, Preference("v2/de_speaker_2", "bark"))
    assert await store.user_voice(1) == Preference("v2/de_speaker_2", "bark")
    await store.set_user_voice(1, None)
    assert await store.user_voice(1) is None
    assert await store.claim_notice(7, "noise") is True
    assert await store.claim_notice(7, "noise") is False
    await store.set_guild_voice(7, preference)
    assert await store.guild_voice(7) == preference
    assert await store.claim_notice(7, "other noise") is True
    await store.set_guild_voice(7, None)
    assert await store.guild_voice(7) is None
    await store.forget_guild(7)
    assert await store.claim_notice(7, "other noise") is True
    await store.set_fact("hash", "1")
    await store.set_fact("hash", "2")
    assert await store.fact("hash") == "2"


async def test_a_cancelled_writer_leaves_no_open_transaction(store: Store) -> None:
    for turns in range(12):  # cancelled at each await in turn
        task = asyncio.create_task(store.set_fact("x", str(turns)))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await store.set_fact("x", "after")
    assert await store.fact("x") == "after"


async def test_a_migration_that_fails_leaves_the_version_before(tmp_path: Path) -> None:
    path = tmp_path / "bot.sqlite3"
    async with open_store(path):
        pass
    broken = (*MIGRATIONS, ("CREATE TABLE more (x)", "CREATE TABLE users (x)"))
    with pytest.raises(StartError, match="users already exists"):
        async with open_database(path, broken):
            pass
    async with open_database(path, MIGRATIONS) as database:
        assert (await database.read("PRAGMA user_version"))[0][0] == len(MIGRATIONS)
        assert not await database.read("SELECT name FROM sqlite_master WHERE name = 'more'")


async def test_a_newer_or_broken_database_is_refused(tmp_path: Path) -> None:
    newer = tmp_path / "newer.sqlite3"
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version = 999")
    db.close()
    with pytest.raises(StartError, match="newer version"):
        async with open_store(newer):
            pass
    broken = tmp_path / "broken.sqlite3"
    broken.write_bytes(b"this is no database" * 100)
    with pytest.raises(StartError, match="cannot be opened"):
        async with open_store(broken):
            pass
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="data_folder"):
        async with open_store(tmp_path / "file" / "bot.sqlite3"):
            pass


KILLED = """
import asyncio, sys
from pathlib import Path
from bot.store import NewJob, Outcome, open_store

async def main():
    async with open_store(Path(sys.argv[1])) as store:
        number = 0
        while True:
            job = NewJob(job_id=str(number), user_id=1, guild_id=2, channel_id=3, voice=None,
                         seed=0, text_length=1)
            assert await store.admit(job, per_user=10**6, per_guild=10**6, cooldown_s=0) is None
            if number % 2:
                await store.job_ended(str(number), Outcome.DONE, audio_s=1.0)
            print(number, flush=True)
            number += 1

asyncio.run(main())
"""


@pytest.mark.parametrize("after", [1, 20, 63])
def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path, after: int) -> None:
    path = tmp_path / "bot.sqlite3"
    script = [sys.executable, "-c", textwrap.dedent(KILLED), str(path)]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        acknowledged = [int(child.stdout.readline()) for _ in range(after)]
        child.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in child.stdout if line.endswith("\n")]
        assert child.wait() == -signal.SIGKILL
    asyncio.run(check_after_kill(path, acknowledged))


async def check_after_kill(path: Path, acknowledged: list[int]) -> None:
    async with open_store(path) as store:
        for number in acknowledged:
            row = await store.job(str(number))
            assert row is not None
            assert row.outcome == (Outcome.DONE if number % 2 else None)
        left_open = await store.interrupt_open_jobs()
        assert {row.job_id for row in left_open} >= {str(n) for n in acknowledged if n % 2 == 0}
        row = await store.job("0")
        assert row is not None and row.outcome is Outcome.INTERRUPTED
        assert await store.interrupt_open_jobs() == []


async def test_a_full_disk_is_said_plainly_and_leaves_nothing_behind(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite's own error came through, and the transaction could stay open for the next one."""
    await admit(store, job("first"))
    database = store._database
    ((pages,),) = await database.read("PRAGMA page_count")
    await database.read(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreUnavailable, match="disk may be full.*tell its owner"):
        await store.set_fact("large", "x" * 1_000_000)
    assert "database or disk is full" in caplog.text
    job_row = await store.job("first")
    assert job_row is not None
    await database.read("PRAGMA max_page_count = 1000000")
    await store.set_fact("after", "1")
    assert await store.fact("after") == "1" and await store.fact("large") is None
