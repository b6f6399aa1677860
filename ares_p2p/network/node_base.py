"""What the services over a node need of it."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol, TypeVar

from ares_p2p.crypto.keys import Identity
from ares_p2p.network.invite import NetworkRef

T = TypeVar("T")


class NodeBase(Protocol):
    """A node that is open; see `ares_p2p.network.node.Node`."""

    identity: Identity
    network: NetworkRef

    @property
    def p2p(self) -> Any:
        """The P2P client of this process."""
        ...

    def check_alive(self) -> None:
        """Raise NodeDied when the node has died."""
        ...

    async def call(self, awaitable: Awaitable[T], *, timeout_s: float) -> T:
        """Return what `awaitable` gives, in time and as long as the node lives."""
        ...

    async def run_in_dht(self, coroutine: Any, *, timeout_s: float) -> Any:
        """Return what a function of `dht_process` gives."""
        ...
