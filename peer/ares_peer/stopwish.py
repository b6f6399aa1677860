"""A person's wish that the session ends: what can be broken off is, a running round is not."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Leaving(Exception):
    """The wish came while nothing was under way that must be completed."""


class StopWish:
    """One per session."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def utter(self) -> None:
        """Wish it; there is no way back."""
        self._event.set()

    def is_uttered(self) -> bool:
        """Whether somebody wished it."""
        return self._event.is_set()

    async def or_leave(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns, unless the wish comes first; `work` is cancelled then.

        Raises: Leaving. What `work` raises.
        """
        working = asyncio.create_task(work)
        wish = asyncio.create_task(self._event.wait())
        try:
            await asyncio.wait({working, wish}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise Leaving
            return working.result()
        finally:
            for task in (working, wish):
                task.cancel()
            await asyncio.gather(working, wish, return_exceptions=True)
