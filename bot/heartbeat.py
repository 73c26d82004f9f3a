"""A file that a running bot touches while it is well, for whoever watches from outside.

A container's health check looks at the file's age: cheap, and it needs no port.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

PERIOD_S = 15.0
_RETRY_S = 1.0
STALE_S = 60.0  # some missed beats in a row, not one


def heartbeat_file(data_folder: Path) -> Path:
    return data_folder / "alive"


def is_fresh(file: Path, now: float) -> bool:
    """Whether the bot that touches `file` was well a moment before `now`, seconds since 1970."""
    try:
        return now - file.stat().st_mtime < STALE_S
    except OSError:
        return False


@asynccontextmanager
async def heartbeat(
    file: Path, well: Callable[[], bool], period_s: float = PERIOD_S
) -> AsyncGenerator[None]:
    """Touch `file` now and then while `well()`; take it away at the end."""

    async def beat() -> None:
        while True:
            if well():
                try:
                    await asyncio.to_thread(file.touch)
                except OSError as error:  # a full disk is no reason never to beat again
                    logger.warning("%s cannot be touched: %s", file, error.strerror)
                await asyncio.sleep(period_s)
            else:
                await asyncio.sleep(min(period_s, _RETRY_S))

    task = asyncio.create_task(beat(), name="heartbeat")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.to_thread(file.unlink, missing_ok=True)
