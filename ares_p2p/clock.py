"""Clocks, passed in and never global, so that tests own the time.

Wall time is an integer number of milliseconds since the Unix epoch (UTC): what goes on the wire.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """What the program needs of time."""

    def now_ms(self) -> int:
        """Return the wall time in milliseconds since the epoch."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of this clock."""
        ...


async def sleep_or(clock: Clock, seconds: float, event: asyncio.Event) -> None:
    """Return after `seconds` of a clock, or as soon as an event is set."""
    waits = asyncio.ensure_future(clock.sleep(seconds)), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))
