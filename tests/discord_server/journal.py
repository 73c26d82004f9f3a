"""What happened, in order, and waiting until something has.

Records are made on the server's event loop only. Knows nothing of Discord.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Record:
    """`at_s` is time.monotonic()."""

    at_s: float
    kind: str
    data: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.data[name]

    def __str__(self) -> str:
        words = " ".join(f"{name}={value!r:.80}" for name, value in self.data.items())
        return f"{self.at_s:.3f} {self.kind} {words}"


class Journal:
    def __init__(self) -> None:
        self.records: list[Record] = []
        self._woken = asyncio.Event()

    def note(self, kind: str, **data: Any) -> Record:
        record = Record(time.monotonic(), kind, data)
        self.records.append(record)
        self.wake()
        return record

    def wake(self) -> None:
        """Let every waiter look again: for state that is kept outside the records."""
        self._woken.set()
        self._woken = asyncio.Event()

    @property
    def mark(self) -> int:
        """The place to search from when only what comes next counts."""
        return len(self.records)

    def find(self, kind: str, since: int = 0, **data: Any) -> list[Record]:
        return [
            record
            for record in self.records[since:]
            if record.kind == kind
            and all(record.data.get(name) == value for name, value in data.items())
        ]

    async def wait_for(
        self, kind: str, since: int = 0, timeout_s: float = 20, **data: Any
    ) -> Record:
        """The first record of `kind` at or after `since` whose fields are `data`."""
        await self.until(
            lambda: bool(self.find(kind, since, **data)), f"{kind} {data or ''}", timeout_s
        )
        return self.find(kind, since, **data)[0]

    async def until(self, condition: Callable[[], bool], what: str, timeout_s: float = 20) -> None:
        """Wait until `condition` holds. Raises AssertionError with the last records otherwise."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    await self._woken.wait()
        except TimeoutError:
            lines = "\n".join(map(str, self.records[-40:]))
            raise AssertionError(f"not within {timeout_s} s: {what}\n{lines}") from None

    def describe(self, records: Sequence[Record] | None = None) -> str:
        return "\n".join(map(str, self.records if records is None else records))
