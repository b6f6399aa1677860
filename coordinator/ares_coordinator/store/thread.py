"""One thread owns the database; the event loop awaits it.

Calls run one after another, in the order in which they were made. A call that is cancelled while
it waits is not made; one that has begun is completed, and only its result is lost: every method
of the store may be repeated.

A call of which the database server undid everything (it was restarted, or hung up before the
commit) is made again for a while. When the connection breaks in the very commit nobody knows
what became of it: that fault goes to the caller, as after a kill.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

import structlog

from ares_coordinator.store.base import Store
from ares_coordinator.store.faults import TransactionUndone
from ares_coordinator.store.sql import open_store

log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
REPEAT_AFTER_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)  # longer than a server takes to restart


class StoreThread:
    """A store and its thread. Made by `StoreThread.open`; `await close()` ends it."""

    def __init__(self, store: Store, executor: ThreadPoolExecutor) -> None:
        self.store = store
        self._executor = executor

    @classmethod
    async def open(cls, target: str | Path, *, read_only: bool = False) -> StoreThread:
        """Open the store of a path or URL in a thread of its own; see `open_store`.

        Raises: ConfigFault, DatabaseAway, StoreFault, DiskFull.
        """
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ares-store")
        try:
            opening = partial(open_store, target, read_only=read_only)
            store = await asyncio.get_running_loop().run_in_executor(executor, opening)
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
        return await loop.run_in_executor(
            self._executor, partial(_until_done, partial(fn, *args, **kwargs))
        )

    async def close(self) -> None:
        """Finish the calls that were made, close the database and end the thread."""
        await self.call(self.store.close)
        self._executor.shutdown(wait=True)


def _until_done(fn: Callable[[], T]) -> T:
    for wait_s in REPEAT_AFTER_S:
        try:
            return fn()
        except TransactionUndone as fault:
            log.warning("store_call_repeated", reason=fault.message, wait_s=wait_s)
            time.sleep(wait_s)
    return fn()
