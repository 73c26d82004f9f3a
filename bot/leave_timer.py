"""The one timer a voice session has: why it would leave, and when."""

import asyncio
from collections.abc import Callable

from bot.voice_problems import VoiceReason


class LeaveTimer:
    """Calls `on_due(reason)` once, so many seconds after that reason came up and stayed."""

    def __init__(self, on_due: Callable[[VoiceReason], None]) -> None:
        self._on_due = on_due
        self._reason: VoiceReason | None = None
        self._handle: asyncio.TimerHandle | None = None

    def set(self, reason: VoiceReason | None, after_s: float | None) -> None:
        """Run for `reason`; the same reason again changes nothing, None stops it."""
        if reason is self._reason:
            return
        self.cancel()
        self._reason = reason
        if reason is not None and after_s is not None:
            loop = asyncio.get_running_loop()
            self._handle = loop.call_later(after_s, self._due, reason)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle, self._reason = None, None

    def _due(self, reason: VoiceReason) -> None:
        self.cancel()
        self._on_due(reason)
