"""Records without a network: one dictionary that a whole simulated swarm shares.

It behaves like hivemind's DHT where that matters: a value that expires later wins, a plain value
and a dictionary under one key displace each other, expired values are gone, and every value
passes the same guard that real nodes apply.
"""

from __future__ import annotations

from collections.abc import Sequence

from ares_p2p.clock import Clock
from ares_p2p.crypto.keys import Identity
from ares_p2p.errors import RpcTimeout
from ares_p2p.network.invite import NetworkRef
from ares_p2p.network.record_guard import RecordGuard
from ares_p2p.network.record_keys import RecordKey, dht_id_of
from ares_p2p.network.record_rules import FoundValue, PlainValue, RawRecord
from ares_p2p.network.records_dht import DhtRecords


class InMemoryNetwork:
    """The shared dictionary, and the guard of its one imagined node.

    Attributes:
        is_down: when true, every call times out.
    """

    def __init__(self, network: NetworkRef, *, clock: Clock) -> None:
        self.network = network
        self.clock = clock
        self.guard = RecordGuard(network, now_s=lambda: clock.now_ms() / 1000)
        self.is_down = False
        self._values: dict[str, FoundValue] = {}

    async def store(self, key: RecordKey, value: bytes, expiration_s: float) -> bool:
        """Store a value as hivemind would; False when it is refused or expires earlier."""
        self._check_up()
        raw = RawRecord(dht_id_of(key.key), key.subkey, value, expiration_s)
        if expiration_s < self._now_s() or not self.guard.is_allowed(raw):
            return False
        there = self._alive(key.key)
        if key.subkey is not None:
            entries = there if isinstance(there, dict) else {}
            if isinstance(there, tuple) and there[1] >= expiration_s:
                return False
            if key.subkey in entries and entries[key.subkey][1] >= expiration_s:
                return False
            self._values[key.key] = {**entries, key.subkey: (value, expiration_s)}
            return True
        if there is not None and self._latest(there) >= expiration_s:
            return False
        self._values[key.key] = (value, expiration_s)
        return True

    async def get_many(
        self,
        keys: Sequence[str],
        *,
        latest: bool,  # noqa: ARG002 (here every answer is the latest)
    ) -> dict[str, FoundValue]:
        """Return what lies under each key and has not expired."""
        self._check_up()
        return {key: self._alive(key) for key in keys}

    def _check_up(self) -> None:
        if self.is_down:
            raise RpcTimeout("the simulated network is down")

    def _now_s(self) -> float:
        return self.clock.now_ms() / 1000

    @staticmethod
    def _latest(found: PlainValue | dict[str, PlainValue]) -> float:
        if isinstance(found, dict):
            return max(expiration_s for _, expiration_s in found.values())
        return found[1]

    def _alive(self, key: str) -> FoundValue:
        found, now_s = self._values.get(key), self._now_s()
        if isinstance(found, dict):
            return {name: item for name, item in found.items() if item[1] >= now_s} or None
        return found if found is not None and found[1] >= now_s else None


class InMemoryRecords(DhtRecords):
    """One simulated node's view of an `InMemoryNetwork`."""

    def __init__(self, network: InMemoryNetwork, *, identity: Identity) -> None:
        super().__init__(network, identity=identity, network=network.network, clock=network.clock)
