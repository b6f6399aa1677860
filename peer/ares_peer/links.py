"""What a session needs of the network, as one value: the real node or a simulation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from ares_p2p.clock import Clock
from ares_p2p.crypto.keys import Identity
from ares_p2p.ids import PeerId
from ares_p2p.network.blobs import Blobs
from ares_p2p.network.control import Control
from ares_p2p.network.records import Records

T = TypeVar("T")

POLL_S = 0.4  # a DHT get takes 7-50 ms; a round lasts tens of seconds at least


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

    async def wait_for(
        self, ask: Callable[[], Awaitable[T | None]], *, until_ms: int | None = None
    ) -> T | None:
        """Ask again and again until there is an answer; None when `until_ms` has passed."""
        while True:
            answer = await ask()
            if answer is not None:
                return answer
            if until_ms is not None and self.clock.now_ms() >= until_ms:
                return None
            await self.clock.sleep(POLL_S)
