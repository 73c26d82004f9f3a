"""One SQLite connection with one writer. The only aiosqlite import.

Knows transactions, migrations and how a file goes wrong. Knows no table: `bot.store` has those.

Each change is one transaction, finished even when its caller is cancelled. WAL with full
synchronisation: what a call has returned for is on disk, whatever is killed and when. What SQLite
cannot do at the moment, as on a full disk, is StoreUnavailable; nothing of it is kept.
"""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

import aiosqlite

from bot.errors import StartError, StoreUnavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")

BUSY_TIMEOUT_MS = 5_000

Row = sqlite3.Row
Migrations = tuple[tuple[str, ...], ...]


class Transaction:
    """What a piece of work does within one transaction."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection

    async def execute(self, query: str, *values: object) -> int:
        """Run a statement; returns how many rows it changed."""
        async with self._connection.execute(query, values) as cursor:
            return cursor.rowcount

    async def rows(self, query: str, *values: object) -> list[Row]:
        return list(await self._connection.execute_fetchall(query, values))

    async def row(self, query: str, *values: object) -> Row:
        """The one row of a query that always has one."""
        (row,) = await self.rows(query, *values)
        return row


class Database:
    """The open file. Made by `open_database`; safe to call from many tasks."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()
        self._writes: set[asyncio.Task[object]] = set()

    async def read(self, query: str, *values: object) -> list[Row]:
        with _plainly():
            async with self._turn:
                return await Transaction(self._connection).rows(query, *values)

    async def execute(self, query: str, *values: object) -> None:
        """One statement as one transaction."""

        async def change(transaction: Transaction) -> None:
            await transaction.execute(query, *values)

        await self.write(change)

    async def write(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run `work` as one transaction: all of it is on disk afterwards, or nothing."""
        # A caller that is cancelled between BEGIN and COMMIT would leave the transaction open for
        # the next one: the database owns the transaction's task and lets it end.
        task = asyncio.create_task(self._write(work))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return await asyncio.shield(task)

    async def close(self) -> None:
        if self._writes:
            await asyncio.wait(self._writes)
        await self._connection.close()

    async def _write(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        with _plainly():
            async with self._turn, _transaction(self._connection) as transaction:
                return await work(transaction)


@asynccontextmanager
async def open_database(path: Path, migrations: Migrations) -> AsyncGenerator[Database]:
    """Open, and if need be create or migrate, the database at `path`.

    Raises StartError when the folder cannot be written, the file is no database, or the database
    was made by a newer version.
    """
    connection: aiosqlite.Connection | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = await aiosqlite.connect(path, isolation_level=None)
        connection.row_factory = sqlite3.Row
        await connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        await connection.execute("PRAGMA journal_mode = WAL")
        await connection.execute("PRAGMA synchronous = FULL")
        await _migrate(connection, path, migrations)
    except BaseException as error:
        if connection is not None:
            await connection.close()
        if isinstance(error, OSError | sqlite3.Error):
            raise StartError(
                f"The database {path} cannot be opened ({error}); make its folder writable, "
                "or set data_folder to another one."
            ) from error
        raise
    database = Database(connection)
    try:
        yield database
    finally:
        await database.close()


async def _migrate(connection: aiosqlite.Connection, path: Path, migrations: Migrations) -> None:
    """Bring the schema up to date, each version and its number in one transaction."""
    version = int((await Transaction(connection).row("PRAGMA user_version"))[0])
    if version > len(migrations):
        raise StartError(
            f"The database {path} was made by a newer version of the bot; "
            "update the bot, or set data_folder to another folder."
        )
    for number, statements in enumerate(migrations[version:], start=version + 1):
        async with _transaction(connection) as transaction:
            await _run(transaction, statements)
            await transaction.execute(f"PRAGMA user_version = {number}")


async def _run(transaction: Transaction, statements: Iterable[str]) -> None:
    for statement in statements:  # one by one: executescript would commit
        await transaction.execute(statement)


@asynccontextmanager
async def _transaction(connection: aiosqlite.Connection) -> AsyncGenerator[Transaction]:
    await connection.execute("BEGIN IMMEDIATE")
    try:
        yield Transaction(connection)
        await connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # some failures, such as a full disk, have ended it already
            await connection.execute("ROLLBACK")
        raise


@contextmanager
def _plainly() -> Generator[None]:
    try:
        yield
    except sqlite3.Error as error:
        logger.error("the database failed: %s", error)
        raise StoreUnavailable(
            "The bot cannot use its database at the moment (its disk may be full): "
            "tell its owner, and try again later."
        ) from error
