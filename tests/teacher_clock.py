"""A clock for tests: a sleep jumps to its end."""

from __future__ import annotations

import asyncio


class JumpClock:
    """Time passes only by sleeping, and then at once."""

    def __init__(self, now_ms: int = 1_790_000_000_000) -> None:
        self._now_ms = now_ms
        self._held = False
        self.slept_s: list[float] = []

    def now_ms(self) -> int:
        return self._now_ms

    def hold(self) -> None:
        """Let no sleep end any more."""
        self._held = True

    async def sleep(self, seconds: float) -> None:
        if self._held:
            await asyncio.Event().wait()
        self.slept_s.append(seconds)
        end = self._now_ms + round(max(0.0, seconds) * 1000)
        await asyncio.sleep(0)
        self._now_ms = max(self._now_ms, end)
