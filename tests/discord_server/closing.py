"""Websockets on their way out.

The far side may take its time to answer a close, and nobody may wait for that: neither the read
loop in which the close was decided nor a test.
"""

from __future__ import annotations

import asyncio

from aiohttp import web


class Closing:
    """Owns the tasks that close websockets; `aclose` ends those that still wait."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[bool]] = set()

    def add(self, websocket: web.WebSocketResponse, code: int) -> None:
        if websocket.closed:
            return
        task = asyncio.create_task(websocket.close(code=code))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
