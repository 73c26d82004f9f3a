"""What goes wrong on purpose, and the rate limits that always hold.

A middleware for `rest.py`: errors, delays and 429s that a test has ordered, then Discord's buckets.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.discord_server.journal import Journal


def json_response(
    body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """As Discord answers: discord.py reads JSON only from a content type without a charset."""
    data = json.dumps(body).encode()
    return web.Response(body=data, status=status, headers=headers, content_type="application/json")


@dataclass(eq=False)
class Fault:
    """For requests whose "METHOD /path" contains the pattern, `times` times from now on.

    A status of None only delays. `retry_after_s` is for 429.
    """

    pattern: str
    status: int | None = None
    times: int = 1
    delay_s: float = 0.0
    retry_after_s: float = 0.5


class Faults:
    LIMIT, PER_S = 5, 2.0  # about what Discord grants for a channel's messages or a webhook

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._ordered: list[Fault] = []
        self._buckets: dict[str, deque[float]] = {}

    def order(self, fault: Fault) -> Fault:
        self._ordered.append(fault)
        return fault

    @web.middleware
    async def middleware(self, request: web.Request, handler) -> web.StreamResponse:
        name = f"{request.method} {request.path}"
        for fault in self._ordered:
            if fault.times > 0 and re.search(fault.pattern, name):
                fault.times -= 1
                self._journal.note("fault", request=name, status=fault.status)
                await request.read()  # a half-sent upload would see a reset, not the answer
                await asyncio.sleep(fault.delay_s)
                if fault.status == 429:
                    return self._too_many(fault.retry_after_s, "shared")
                if fault.status is not None:
                    return json_response(
                        {"code": 0, "message": f"{fault.status}: on purpose"}, status=fault.status
                    )
        bucket = self._bucket_of(request)
        if bucket is None:
            return await handler(request)
        now = time.monotonic()
        used = self._buckets.setdefault(bucket, deque())
        while used and used[0] <= now - self.PER_S:
            used.popleft()
        if len(used) >= self.LIMIT:
            self._journal.note("rate_limited", request=name)
            await request.read()
            return self._too_many(used[0] + self.PER_S - now, "user")
        used.append(now)
        response = await handler(request)
        reset_after = used[0] + self.PER_S - time.monotonic() if used else self.PER_S
        response.headers.update(
            {
                "X-RateLimit-Limit": str(self.LIMIT),
                "X-RateLimit-Remaining": str(self.LIMIT - len(used)),
                "X-RateLimit-Reset": f"{time.time() + reset_after:.3f}",
                "X-RateLimit-Reset-After": f"{max(reset_after, 0):.3f}",
                "X-RateLimit-Bucket": re.sub(r"\W", "", bucket)[:32],
            }
        )
        return response

    @staticmethod
    def _bucket_of(request: web.Request) -> str | None:
        """Interaction callbacks are exempt; a webhook or a channel is a bucket per method."""
        match = re.match(r"/api/v10/(webhooks/\d+/[^/]+|channels/\d+/messages)", request.path)
        return f"{request.method} {match[1]}" if match else None

    @staticmethod
    def _too_many(retry_after_s: float, scope: str) -> web.Response:
        retry_after_s = max(retry_after_s, 0.01)
        return json_response(
            {
                "message": "You are being rate limited.",
                "retry_after": retry_after_s,
                "global": False,
            },
            status=429,
            headers={
                "Via": "1.1 google",  # without it discord.py takes a 429 for a ban by Cloudflare
                "Retry-After": str(int(retry_after_s) + 1),
                "X-RateLimit-Scope": scope,
            },
        )
