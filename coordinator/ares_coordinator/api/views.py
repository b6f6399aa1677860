"""What the API needs from the running coordinator: the store, and what only memory knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ares_coordinator.store.thread import StoreThread
from ares_p2p.ids import PeerId


@dataclass(frozen=True, slots=True)
class LiveSnapshot:
    """The coordinator at this moment. What survives a restart is read from the store instead."""

    at_ms: int
    started_ms: int
    state: str  # "running", "paused", "idle"
    activity: str  # what the phase is at, for people; "" when idle
    failure: str  # why the phase is being tried again; "" when all is well
    online: frozenset[PeerId]  # who announced itself lately
    deadline_ms: int | None  # of the open round's commits
    tokens_per_s: float  # of the whole swarm
    bytes_sent: int
    bytes_received: int
    refused_records: Mapping[str, int]  # DHT records this node refused, by error code
    base_name: str
    base_parameters: int | None  # None: the base is not loaded yet
    ways: Mapping[PeerId, str] = field(default_factory=dict)  # p2p, relay, http: of who is online
    schedule: str = ""  # when cycles begin by themselves; "" when they do not
    next_cycle_ms: int | None = None
    round_clock: str = ""  # why the rounds' times are as they are; "" while nothing chose them


class Views(Protocol):
    """Implemented by the composition root."""

    @property
    def db(self) -> StoreThread:
        """The store and its thread."""
        ...

    @property
    def invite(self) -> str:
        """The `ares://` invite of the network; "" while it has no address yet."""
        ...

    def snapshot(self) -> LiveSnapshot:
        """Return the present moment; must not block."""
        ...
