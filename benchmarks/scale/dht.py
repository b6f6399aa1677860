"""Many real nodes of hivemind's DHT in one process: each with its own p2pd, key and validator.

The program runs one node per process; here the DHT processes are left out, so that 64 nodes fit on
one machine: a call is the one that `ares_p2p.network.dht_process` makes, in this event loop. Killed
is a node's p2pd, by the pid that was noted when it started; what it held is gone then.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hivemind.dht.node import DHTNode
from hivemind.dht.validation import CompositeValidator

from ares_p2p.clock import SystemClock
from ares_p2p.crypto.keys import Identity, load_or_create_identity
from ares_p2p.errors import RpcTimeout
from ares_p2p.network import dht_process, hivemind_fixes
from ares_p2p.network.invite import NetworkRef
from ares_p2p.network.node import CACHED_RECORDS
from ares_p2p.network.processes import SocketFolder
from ares_p2p.network.record_keys import RecordKey
from ares_p2p.network.record_rules import FoundValue
from ares_p2p.network.records_dht import DhtRecords
from ares_p2p.network.records_hivemind import SEARCH_TIMEOUT_S, STORE_TIMEOUT_S
from ares_p2p.network.validator import AresRecordValidator

START_TIMEOUT_S = 60.0
AT_ONCE = 4  # nodes that start at the same time
CONTACTS = 4  # nodes through which a new one joins


class _Transport:
    """Stores and searches of one node, with the program's limits on time."""

    def __init__(self, node: DHTNode) -> None:
        self._node = node

    async def store(self, key: RecordKey, value: bytes, expiration_s: float) -> bool:
        call = dht_process.store(
            None,
            self._node,
            key=key.key,
            subkey=key.subkey,
            value=value,
            expiration_s=expiration_s,
        )
        return await _in_time(call, STORE_TIMEOUT_S)

    async def get_many(self, keys: Sequence[str], *, latest: bool) -> dict[str, FoundValue]:
        call = dht_process.get_many(
            None, self._node, keys=keys, latest=latest, timeout_s=SEARCH_TIMEOUT_S
        )
        return await _in_time(call, SEARCH_TIMEOUT_S + 5)


async def _in_time(call: Any, timeout_s: float) -> Any:
    try:
        async with asyncio.timeout(timeout_s):
            return await call
    except TimeoutError as error:
        raise RpcTimeout(f"no answer within {timeout_s:g} s") from error


@dataclass(slots=True)
class LiveNode:
    """One node, and the records as the program sees them through it."""

    identity: Identity
    node: DHTNode
    p2pd_pid: int
    records: DhtRecords
    is_alive: bool = True

    def kill(self) -> None:
        """End its p2pd as a pulled plug would."""
        self.is_alive = False
        os.kill(self.p2pd_pid, signal.SIGKILL)


class Dht:
    """A DHT of real nodes; an async context."""

    def __init__(self, folder: Path, *, size: int, network: NetworkRef, owner: Identity) -> None:
        self.nodes: list[LiveNode] = []
        self._folder = folder
        self._size = size
        self._network = network
        self._owner = owner  # the first node's: what only a coordinator may write is its
        self._sockets = SocketFolder.create()

    @property
    def alive(self) -> list[LiveNode]:
        """The nodes that were not killed."""
        return [node for node in self.nodes if node.is_alive]

    async def __aenter__(self) -> Dht:
        hivemind_fixes.apply()
        hivemind_fixes.keep_sockets_in(self._sockets.path)
        gate = asyncio.Semaphore(AT_ONCE)
        try:
            self.nodes.append(await self._start(0, gate))
            while len(self.nodes) < self._size:  # in waves, so that there is somebody to join
                count = min(len(self.nodes), self._size - len(self.nodes))
                numbers = range(len(self.nodes), len(self.nodes) + count)
                self.nodes += await asyncio.gather(*(self._start(n, gate) for n in numbers))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _start(self, number: int, gate: asyncio.Semaphore) -> LiveNode:
        path = self._folder / f"node-{number}.key"
        identity = load_or_create_identity(path)
        addresses: list[str] = []
        for other in self.nodes[:CONTACTS]:
            addresses += [str(a) for a in await other.node.get_visible_maddrs()]
        async with gate, asyncio.timeout(START_TIMEOUT_S):
            node = await DHTNode.create(
                initial_peers=addresses or None,
                record_validator=CompositeValidator([AresRecordValidator(self._network)]),
                identity_path=str(path),
                check_if_identity_free=False,
                host_maddrs=["/ip4/127.0.0.1/tcp/0"],
                cache_size=CACHED_RECORDS,
                nat_port_map=False,
                auto_nat=False,
                use_auto_relay=False,
                startup_timeout=START_TIMEOUT_S,
            )
        node.protocol.storage.maxsize = dht_process.MAX_STORED_RECORDS
        records = DhtRecords(
            _Transport(node),
            identity=self._owner if number == 0 else identity,
            network=self._network,
            clock=SystemClock(),
        )
        return LiveNode(identity, node, node.p2p._child.pid, records)

    async def __aexit__(self, *_: object) -> None:
        for one in self.nodes:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(5.0):
                    await one.node.shutdown()
        for one in self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.p2pd_pid, signal.SIGKILL)
        hivemind_fixes.keep_sockets_in(None)
        self._sockets.remove()
