"""What a session needs of the network, as one value: the real node or a simulation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from ares_p2p.clock import Clock
from ares_p2p.crypto.keys import Identity
from ares_p2p.errors import NetworkFault, NodeDied
from ares_p2p.ids import PeerId
from ares_p2p.network.blobs import Blobs
from ares_p2p.network.control import Control
from ares_p2p.network.records import Records

T = TypeVar("T")

POLL_S = 0.4  # of a DHT, where the coordinator does not tell: a get takes 7-50 ms
UNREACHABLE_WAY = "http"  # who reaches the network by it can serve nobody
MAX_POLL_S = 5.0  # while nothing answers: asking must not make an outage worse


@dataclass(frozen=True, slots=True)
class Links:
    """One peer's ways to the others."""

    identity: Identity
    network_id: str
    coordinator: PeerId
    records: Records
    blobs: Blobs
    control: Control
    clock: Clock
    way: Callable[[], str] = lambda: "p2p"  # how the network is reached; see `ways`
    rest: Callable[[float], Awaitable[None]] | None = None  # sleeps, or less when there is news

    async def wait_for(
        self,
        ask: Callable[[], Awaitable[T | None]],
        *,
        until: Callable[[], bool],
        pause_s: Callable[[], float] = lambda: POLL_S,
    ) -> T | None:
        """Ask again and again until there is an answer; None once `until` says to stop.

        Records are asked of what the coordinator said (`records_watch`): that costs no message.
        A call that fails is no answer: the pause before the next one grows, nothing else.

        Args:
            pause_s: between two calls that work.

        Raises: NodeDied. What `ask` raises besides network faults.
        """
        faults = 0
        while not until():
            try:
                answer = await ask()
                faults = 0
            except NodeDied:
                raise
            except NetworkFault:
                answer, faults = None, faults + 1
            if answer is not None:
                return answer
            await (self.rest or self.clock.sleep)(min(MAX_POLL_S, pause_s() * (1 + faults)))
        return None
