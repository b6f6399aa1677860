"""Records over hivemind's DHT, through the DHT process of this node."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence

import structlog

from ares_p2p.clock import SystemClock
from ares_p2p.errors import AresError, NodeDied
from ares_p2p.network import dht_process
from ares_p2p.network.node_base import NodeBase
from ares_p2p.network.record_keys import RecordKey
from ares_p2p.network.record_rules import FoundValue
from ares_p2p.network.records_dht import DhtRecords

STORE_TIMEOUT_S = 20.0
SEARCH_TIMEOUT_S = 10.0
REPUBLISH_INTERVAL_S = 10.0
_log = structlog.get_logger(__name__)


class HivemindTransport:
    """Stores and searches with a limit on time."""

    def __init__(self, node: NodeBase) -> None:
        self._node = node

    async def store(self, key: RecordKey, value: bytes, expiration_s: float) -> bool:
        """Store a value at the nodes nearest to its key."""
        store = functools.partial(
            dht_process.store,
            key=key.key,
            subkey=key.subkey,
            value=value,
            expiration_s=expiration_s,
        )
        return bool(await self._node.run_in_dht(store, timeout_s=STORE_TIMEOUT_S))

    async def get_many(self, keys: Sequence[str], *, latest: bool) -> dict[str, FoundValue]:
        """Search all keys at once; what is not found in time counts as not there."""
        search = functools.partial(
            dht_process.get_many, keys=tuple(keys), latest=latest, timeout_s=SEARCH_TIMEOUT_S
        )
        found: dict[str, FoundValue] = await self._node.run_in_dht(
            search, timeout_s=SEARCH_TIMEOUT_S + 5
        )
        return found


class HivemindRecords(DhtRecords):
    """One node's records; its task stores again what is due."""

    def __init__(self, node: NodeBase) -> None:
        super().__init__(
            HivemindTransport(node),
            identity=node.identity,
            network=node.network,
            clock=SystemClock(),
        )
        self._task = asyncio.create_task(self._republish_forever(), name="ares-republish")

    async def _republish_forever(self) -> None:
        while True:
            await asyncio.sleep(REPUBLISH_INTERVAL_S)
            try:
                await self.republish_due()
            except NodeDied:
                return
            except AresError as error:
                _log.warning("republish_failed", code=error.code, reason=error.message)

    async def close(self) -> None:
        """Stop storing again."""
        self._task.cancel()
        await asyncio.wait({self._task})
