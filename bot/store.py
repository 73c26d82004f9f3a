"""What outlives a restart: preferences, jobs and their outcomes. The schema and every query.

Knows nothing of Discord objects, replies or synthesis: ids are numbers, times are seconds since
1970. A count (how many clips has this user waiting?) is a query over `jobs`, never a counter that
could drift. The text of a request is not kept.
"""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bot.database import Database, Migrations, Row, Transaction, open_database

# One tuple of statements a version; the position is the `user_version` it leads to. Append only.
MIGRATIONS: Migrations = (
    (
        """CREATE TABLE users (
            user_id INTEGER PRIMARY KEY,
            voice TEXT NOT NULL,
            family TEXT NOT NULL
        ) STRICT""",
        """CREATE TABLE guilds (
            guild_id INTEGER PRIMARY KEY,
            voice TEXT,
            family TEXT,
            notice TEXT
        ) STRICT""",
        """CREATE TABLE jobs (
            job_id TEXT PRIMARY KEY,
            user_id INTEGER NOT NULL,
            guild_id INTEGER,
            channel_id INTEGER,
            message_id INTEGER,
            voice TEXT,
            seed INTEGER NOT NULL,
            text_length INTEGER NOT NULL,
            requested_at REAL NOT NULL,
            started_at REAL,
            ended_at REAL,
            outcome TEXT,
            reason TEXT,
            audio_s REAL
        ) STRICT""",
        "CREATE INDEX jobs_open ON jobs (user_id, guild_id) WHERE ended_at IS NULL",
        "CREATE INDEX jobs_of_user ON jobs (user_id, requested_at)",
        "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
    ),
)


class Outcome(StrEnum):
    """How a job ended. An open job has none."""

    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # the bot stopped, or was killed, before the end


class Cap(StrEnum):
    """Which limit refused a job."""

    USER = "user"
    GUILD = "guild"
    COOLDOWN = "cooldown"


@dataclass(frozen=True)
class Refused:
    """A job that was not admitted. `wait_s` is what is left of a cooldown."""

    cap: Cap
    count: int = 0
    wait_s: float = 0.0


@dataclass(frozen=True)
class Preference:
    """A preferred voice and the model family it belonged to when it was chosen."""

    voice: str
    family: str


@dataclass(frozen=True, kw_only=True)
class NewJob:
    job_id: str
    user_id: int
    guild_id: int | None
    channel_id: int | None
    voice: str | None
    seed: int
    text_length: int


@dataclass(frozen=True, kw_only=True)
class JobRow(NewJob):
    """A job as it stands. `ended_at` and `outcome` are None while it is open."""

    message_id: int | None
    requested_at: float
    started_at: float | None
    ended_at: float | None
    outcome: Outcome | None
    reason: str | None
    audio_s: float | None


class Store:
    """The queries over an open database. Made by `open_store`; safe to call from many tasks."""

    def __init__(self, database: Database, wall_clock: Callable[[], float]) -> None:
        self._database = database
        self._now = wall_clock

    # Preferences

    async def user_voice(self, user_id: int) -> Preference | None:
        query = "SELECT voice, family FROM users WHERE user_id = ?"
        return _preference(await self._database.read(query, user_id))

    async def guild_voice(self, guild_id: int) -> Preference | None:
        query = "SELECT voice, family FROM guilds WHERE guild_id = ? AND voice IS NOT NULL"
        return _preference(await self._database.read(query, guild_id))

    async def set_user_voice(self, user_id: int, preference: Preference | None) -> None:
        if preference is None:
            await self._database.execute("DELETE FROM users WHERE user_id = ?", user_id)
            return
        await self._database.execute(
            "INSERT INTO users VALUES (?1, ?2, ?3)"
            " ON CONFLICT (user_id) DO UPDATE SET voice = ?2, family = ?3",
            user_id,
            preference.voice,
            preference.family,
        )

    async def set_guild_voice(self, guild_id: int, preference: Preference | None) -> None:
        await self._database.execute(
            "INSERT INTO guilds (guild_id, voice, family) VALUES (?1, ?2, ?3)"
            " ON CONFLICT (guild_id) DO UPDATE SET voice = ?2, family = ?3",
            guild_id,
            preference.voice if preference else None,
            preference.family if preference else None,
        )

    async def claim_notice(self, guild_id: int, notice: str) -> bool:
        """True the first time a guild is to be told `notice`; False ever after."""

        async def claim(transaction: Transaction) -> bool:
            changed = await transaction.execute(
                "INSERT INTO guilds (guild_id, notice) VALUES (?1, ?2)"
                " ON CONFLICT (guild_id) DO UPDATE SET notice = ?2 WHERE notice IS NOT ?2",
                guild_id,
                notice,
            )
            return changed > 0

        return await self._database.write(claim)

    async def forget_guild(self, guild_id: int) -> None:
        """Drop a guild's preferences: the bot was removed from it."""
        await self._database.execute("DELETE FROM guilds WHERE guild_id = ?", guild_id)

    # Jobs

    async def admit(
        self, job: NewJob, *, per_user: int, per_guild: int, cooldown_s: float
    ) -> Refused | None:
        """Enter `job` as open unless a cap refuses it: counted and entered in one transaction."""

        async def enter(transaction: Transaction) -> Refused | None:
            now = self._now()
            count = "SELECT count(*) FROM jobs WHERE ended_at IS NULL AND "
            (mine,) = await transaction.row(count + "user_id = ?", job.user_id)
            if mine >= per_user:
                return Refused(Cap.USER, count=mine)
            (ours,) = await transaction.row(count + "guild_id = ?", job.guild_id)
            if ours >= per_guild:
                return Refused(Cap.GUILD, count=ours)
            # A request that failed before it got a slot, as in a full queue, costs no wait.
            last_of_user = (
                "SELECT max(requested_at) FROM jobs WHERE user_id = ?"
                " AND (outcome IS NOT 'failed' OR started_at IS NOT NULL)"
            )
            (last,) = await transaction.row(last_of_user, job.user_id)
            # A clock set back must lock nobody out: only a wait within the cooldown counts.
            if last is not None and 0 <= now - last < cooldown_s:
                return Refused(Cap.COOLDOWN, wait_s=cooldown_s - (now - last))
            await transaction.execute(
                "INSERT INTO jobs (job_id, user_id, guild_id, channel_id, voice, seed,"
                " text_length, requested_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                job.job_id,
                job.user_id,
                job.guild_id,
                job.channel_id,
                job.voice,
                job.seed,
                job.text_length,
                now,
            )
            return None

        return await self._database.write(enter)

    async def job_message(self, job_id: str, message_id: int) -> None:
        """Remember the message that shows a job, to correct it after a crash."""
        query = "UPDATE jobs SET message_id = ? WHERE job_id = ?"
        await self._database.execute(query, message_id, job_id)

    async def job_started(self, job_id: str) -> None:
        query = "UPDATE jobs SET started_at = ? WHERE job_id = ? AND started_at IS NULL"
        await self._database.execute(query, self._now(), job_id)

    async def job_ended(
        self, job_id: str, outcome: Outcome, *, reason: str = "", audio_s: float | None = None
    ) -> None:
        """Close a job. Only the first outcome counts."""
        await self._database.execute(
            "UPDATE jobs SET ended_at = ?, outcome = ?, reason = ?, audio_s = ?"
            " WHERE job_id = ? AND ended_at IS NULL",
            self._now(),
            str(outcome),
            reason,
            audio_s,
            job_id,
        )

    async def job(self, job_id: str) -> JobRow | None:
        rows = await self._database.read("SELECT * FROM jobs WHERE job_id = ?", job_id)
        return _job(rows[0]) if rows else None

    async def history(self, user_id: int, limit: int = 20) -> list[JobRow]:
        """A user's jobs, newest first."""
        query = (
            "SELECT * FROM jobs WHERE user_id = ? ORDER BY requested_at DESC, rowid DESC LIMIT ?"
        )
        return [_job(row) for row in await self._database.read(query, user_id, limit)]

    async def interrupt_open_jobs(self) -> list[JobRow]:
        """Close what a crash left open, and return it. Called once, before new jobs come."""

        async def close(transaction: Transaction) -> list[JobRow]:
            rows = await transaction.rows("SELECT * FROM jobs WHERE ended_at IS NULL")
            await transaction.execute(
                "UPDATE jobs SET ended_at = ?, outcome = ?, reason = ? WHERE ended_at IS NULL",
                self._now(),
                str(Outcome.INTERRUPTED),
                "the bot was stopped",
            )
            return [_job(row) for row in rows]

        return await self._database.write(close)

    # Facts

    async def fact(self, name: str) -> str | None:
        rows = await self._database.read("SELECT value FROM facts WHERE name = ?", name)
        return rows[0]["value"] if rows else None

    async def set_fact(self, name: str, value: str) -> None:
        await self._database.execute(
            "INSERT INTO facts VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2",
            name,
            value,
        )


@asynccontextmanager
async def open_store(
    path: Path, wall_clock: Callable[[], float] = time.time
) -> AsyncGenerator[Store]:
    """Open the database at `path`; raises StartError as `bot.database.open_database` does."""
    async with open_database(path, MIGRATIONS) as database:
        yield Store(database, wall_clock)


def _preference(rows: list[Row]) -> Preference | None:
    return Preference(voice=rows[0]["voice"], family=rows[0]["family"]) if rows else None


def _job(row: Row) -> JobRow:
    return JobRow(
        job_id=row["job_id"],
        user_id=row["user_id"],
        guild_id=row["guild_id"],
        channel_id=row["channel_id"],
        message_id=row["message_id"],
        voice=row["voice"],
        seed=row["seed"],
        text_length=row["text_length"],
        requested_at=row["requested_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        outcome=Outcome(row["outcome"]) if row["outcome"] else None,
        reason=row["reason"],
        audio_s=row["audio_s"],
    )
