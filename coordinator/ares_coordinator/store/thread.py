"""One thread owns the database; the event loop awaits it.

Calls run one after another, in the order in which they were made. A call that is cancelled while
it waits is not made; one that has begun is completed, and only its result is lost: every method
of the store may be repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from ares_coordinator.store.base import Store
from ares_coordinator.store.sql import open_store

P = ParamSpec("P")
T = TypeVar("T")


class StoreThread:
    """A store and its thread. Made by `StoreThread.open`; `await close()` ends it."""

    def __init__(self, store: Store, executor: ThreadPoolExecutor) -> None:
        self.store = store
        self._executor = executor

    @classmethod
    async def open(cls, target: str | Path) -> StoreThread:
        """Open the store of a path or URL in a thread of its own.

        Raises: ConfigFault, StoreFault, DiskFull.
        """
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ares-store")
        try:
            store = await asyncio.get_running_loop().run_in_executor(executor, open_store, target)
        except BaseException:
            executor.shutdown(wait=False)
            raise
        return cls(store, executor)

    async def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return `fn(*args, **kwargs)`, run in the store's thread.

        Args:
            fn: a bound method of `self.store`, or a function that uses the store; everything in
                one call runs without another one in between.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, partial(fn, *args, **kwargs))

    async def close(self) -> None:
        """Finish the calls that were made, close the database and end the thread."""
        await self.call(self.store.close)
        self._executor.shutdown(wait=True)
