"""Tells everybody who waits when the node cannot answer any more.

hivemind's calls wait for ever when the DHT process or p2pd is gone. Both are watched without
polling (a process's sentinel, p2pd's connection), and `call` waits for whichever comes first:
the answer, the death, or the end of the caller's patience.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from ares_p2p.errors import InternalFault, NodeDied, RpcTimeout

T = TypeVar("T")


class DeathWatch:
    """One node's end, as a future of the event loop that the node is open on."""

    def __init__(self) -> None:
        self._death: asyncio.Future[str] | None = None
        self._sentinel = -1

    def begin(self, sentinel: int) -> None:
        """Watch a process from the running event loop."""
        loop = asyncio.get_running_loop()
        self._death, self._sentinel = loop.create_future(), sentinel
        loop.add_reader(sentinel, self.note, "the DHT process ended")

    def end(self) -> None:
        """Stop watching; who still waits is told."""
        self.note("the node was closed")

    def note(self, reason: str) -> None:
        """The node died of `reason`."""
        if self._death is None or self._death.done() or self._death.get_loop().is_closed():
            return
        self._death.get_loop().remove_reader(self._sentinel)
        self._death.set_result(reason)

    @property
    def is_over(self) -> bool:
        """Whether the node's end was seen."""
        return self._death is not None and self._death.done()

    def _future(self) -> asyncio.Future[str]:
        if self._death is None:
            raise InternalFault("the node is not open")
        return self._death

    async def wait(self) -> str:
        """Return the reason, once there is one."""
        return await asyncio.shield(self._future())

    def check_alive(self) -> None:
        """Refuse to go on with a dead node.

        Raises: NodeDied.
        """
        if self._future().done():
            raise NodeDied(f"{self._future().result()}; restart to go on")

    async def call(self, awaitable: Awaitable[T], *, timeout_s: float) -> T:
        """Return what `awaitable` gives, in time and as long as the node lives.

        Raises: RpcTimeout, NodeDied, and what the awaitable raises.
        """
        death, task = self._future(), asyncio.ensure_future(awaitable)
        try:
            waiting: set[asyncio.Future[Any]] = {task, death}
            await asyncio.wait(waiting, timeout=timeout_s, return_when="FIRST_COMPLETED")
            if task.done():
                return task.result()
            self.check_alive()
            raise RpcTimeout(f"no answer within {timeout_s:g} s")
        finally:
            if not task.done():
                task.cancel()
