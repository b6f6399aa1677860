"""The Hivemind node of this process: its DHT process, its p2pd, and the services on top.

`Node.start` runs on the main thread before threads, CUDA and the event loop; `open` attaches the
services to the running loop; `close` leaves no process behind. Every call into the DHT process or
to a peer goes through `call`: it has a timeout, and it raises NodeDied at once when the DHT
process or p2pd ends (hivemind itself would wait for ever).

It refuses: a taken port, a key file that is no Ed25519 key of our own only, bootstrap peers that
do not answer, a clock that disagrees with theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hivemind.dht import DHT
from hivemind.p2p import P2P
from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError
from hivemind.utils.multiaddr import Multiaddr

from ares_p2p.crypto.keys import Identity, load_or_create_identity
from ares_p2p.errors import InternalFault, NodeDied, RpcTimeout
from ares_p2p.ids import PeerId
from ares_p2p.network import dht_process, hivemind_fixes
from ares_p2p.network.addresses import check_ports_free
from ares_p2p.network.blob_serve import ServeLimits
from ares_p2p.network.blob_store import BlobStore
from ares_p2p.network.blobs import Blobs
from ares_p2p.network.blobs_hivemind import HivemindBlobs
from ares_p2p.network.control import Control
from ares_p2p.network.control_hivemind import HivemindControl
from ares_p2p.network.death_watch import DeathWatch
from ares_p2p.network.dht_channel import (
    SHUTDOWN_TIMEOUT_S,
    STARTUP_TIMEOUT_S,
    DhtChannel,
    borrowed_event_loop,
    renew_futures,
)
from ares_p2p.network.dht_process import ProcessFacts
from ares_p2p.network.invite import NetworkRef
from ares_p2p.network.joining import check_greetings, reachability
from ares_p2p.network.processes import SocketFolder, check_main_thread
from ares_p2p.network.records import Records
from ares_p2p.network.records_hivemind import HivemindRecords
from ares_p2p.network.validator import AresRecordValidator

CALL_TIMEOUT_S = 15.0
MAX_SKEW_S = 3.0  # what hivemind tolerates between two nodes
REJOIN_INTERVAL_S = 60.0
CACHED_RECORDS = 2048  # of what others asked for: at most 100 MB
T = TypeVar("T")


class Node:
    """One running node. Made by `start`, used after `open`, ended by `close` or `shutdown`."""

    def __init__(
        self,
        *,
        identity: Identity,
        network: NetworkRef,
        role: str,
        initial_peers: tuple[str, ...],
        channel: DhtChannel,
        folder: SocketFolder,
        facts: ProcessFacts,
    ) -> None:
        self.identity = identity
        self.network = network
        self.role = role
        self.initial_peers = initial_peers
        self._channel = channel
        self._folder = folder
        self._facts = facts
        self._watch = DeathWatch()
        self._p2p: Any = None
        self._records: HivemindRecords | None = None
        self._control: HivemindControl | None = None
        self._blobs: HivemindBlobs | None = None
        self._rejoin: asyncio.Task[None] | None = None
        self._closed = False

    # --- start ---------------------------------------------------------------------------------

    @staticmethod
    def start(
        *,
        identity_path: Path,
        network: NetworkRef,
        host_addresses: Sequence[str],
        announce_addresses: Sequence[str] = (),
        initial_peers: Sequence[str] = (),
        client_mode: bool = False,
        relay_service: bool = False,
        role: str = "peer",
        need_peers: bool = True,
        max_skew_s: float = MAX_SKEW_S,
    ) -> Node:
        """Start the DHT process and p2pd, and join the network.

        Args:
            identity_path: the Ed25519 key file, made when it is missing.
            host_addresses: multiaddresses to listen on, e.g. "/ip4/0.0.0.0/tcp/0".
            announce_addresses: what to tell others instead, with explicit ports.
            initial_peers: addresses to join through; none for the first node of a network.
            client_mode: do not store for others and do not listen; be reached through a relay.
            relay_service: carry the traffic of peers that cannot be reached (bootstrap nodes).
            role: for logs: "peer", "coordinator", "bootstrap".
            need_peers: whether it is a fault when no initial peer answers; `open` goes on trying.
        Raises: PortTaken, KeyFileTooOpen, KeyFileMalformed, BootstrapAway, ClockSkewed, NodeDied.
        """
        check_main_thread()
        hivemind_fixes.apply()
        identity = load_or_create_identity(identity_path)
        check_ports_free(host_addresses)
        with contextlib.ExitStack() as undo, borrowed_event_loop():
            renew_futures()
            folder = SocketFolder.create()
            undo.callback(folder.remove)
            hivemind_fixes.options.relay_service = relay_service
            hivemind_fixes.keep_sockets_in(folder.path)
            undo.callback(hivemind_fixes.keep_sockets_in, None)
            dht = DHT(
                start=False,
                record_validators=[AresRecordValidator(network)],
                identity_path=str(identity_path),
                check_if_identity_free=False,  # hivemind's check reads RSA keys only
                host_maddrs=list(host_addresses),
                announce_maddrs=list(announce_addresses) or None,
                no_listen=client_mode,
                client_mode=client_mode,
                startup_timeout=STARTUP_TIMEOUT_S,
                cache_size=CACHED_RECORDS,
                shutdown_timeout=SHUTDOWN_TIMEOUT_S,
                **reachability(
                    host_addresses,
                    initial_peers,
                    relay_service=relay_service,
                    client_mode=client_mode,
                ),
            )
            channel = DhtChannel(dht)
            undo.callback(channel.stop)
            facts = channel.start()
            if facts.peer_id != identity.peer_id:
                raise InternalFault(f"p2pd runs as {facts.peer_id}, not as {identity.peer_id}")
            node = Node(
                identity=identity,
                network=network,
                role=role,
                initial_peers=tuple(initial_peers),
                channel=channel,
                folder=folder,
                facts=facts,
            )
            node._join_first(need_peers=need_peers, max_skew_s=max_skew_s)
            undo.pop_all()
        return node

    def _join_first(self, *, need_peers: bool, max_skew_s: float) -> None:
        if not self.initial_peers:
            return
        join = functools.partial(
            dht_process.join, addresses=self.initial_peers, max_skew_s=max_skew_s
        )
        greetings = self._channel.run_blocking(join, timeout_s=STARTUP_TIMEOUT_S)
        check_greetings(greetings, need_peers=need_peers, max_skew_s=max_skew_s)

    # --- facts ---------------------------------------------------------------------------------

    @property
    def peer_id(self) -> PeerId:
        """This node's id: of its key, and of p2pd."""
        return self.identity.peer_id

    @property
    def addresses(self) -> tuple[str, ...]:
        """Addresses with peer id, as known at the start; what an invite holds."""
        return self._facts.addresses

    @property
    def process_ids(self) -> tuple[int, int]:
        """The DHT process and p2pd."""
        return self._channel.pid, self._facts.p2pd_pid

    @property
    def p2p(self) -> Any:
        """The P2P client of this process; only after `open`."""
        return _opened(self._p2p)

    def is_alive(self) -> bool:
        """Whether the DHT process and p2pd run."""
        if self._closed or self._watch.is_over:
            return False
        return self._channel.is_alive()

    @property
    def records(self) -> Records:
        """Signed records and chunks in the DHT; only after `open`."""
        return _opened(self._records)

    @property
    def control(self) -> Control:
        """Messages to the coordinator; only after `open`."""
        return _opened(self._control)

    @property
    def blobs(self) -> Blobs:
        """Blobs between peers; only after `open` with a folder."""
        return _opened(self._blobs)

    # --- open, call, close ---------------------------------------------------------------------

    async def open(
        self, blobs: Path | BlobStore | None = None, *, serve_limits: ServeLimits | None = None
    ) -> None:
        """Attach to the running event loop: P2P client, death watch, services, rejoining.

        Args:
            blobs: the folder or store to serve from and fetch to; None: no blobs.
            serve_limits: what others may take.
        Raises: NodeDied.
        """
        self._watch.begin(self._channel.sentinel)
        hivemind_fixes.keep_sockets_in(self._folder.path)
        address = Multiaddr(self._facts.control_address)
        try:
            self._p2p = await self.call(P2P.replicate(address), timeout_s=CALL_TIMEOUT_S)
            self._p2p._client.control._read_task.add_done_callback(
                lambda _task: self._watch.note("p2pd ended")
            )
            control = HivemindControl(self)
            await self.call(control.open(), timeout_s=CALL_TIMEOUT_S)
            if blobs is not None:
                store = BlobStore(blobs) if isinstance(blobs, Path) else blobs
                exchange = HivemindBlobs(self, store, serve_limits or ServeLimits())
                await self.call(exchange.open(), timeout_s=CALL_TIMEOUT_S)
                self._blobs = exchange
        except (OSError, P2PDaemonError) as error:
            raise NodeDied("p2pd does not answer") from error
        self._control = control
        self._records = HivemindRecords(self)
        if self.initial_peers:
            self._rejoin = asyncio.create_task(self._rejoin_forever(), name="ares-rejoin")

    async def wait_for_death(self) -> str:
        """Return why this node cannot go on, once the DHT process or p2pd has ended."""
        return await self._watch.wait()

    def check_alive(self) -> None:
        """Refuse to go on with a dead node.

        Raises: NodeDied.
        """
        self._watch.check_alive()

    async def call(self, awaitable: Awaitable[T], *, timeout_s: float) -> T:
        """See `DeathWatch.call`."""
        return await self._watch.call(awaitable, timeout_s=timeout_s)

    async def run_in_dht(self, coroutine: Any, *, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """Return what a function of `dht_process` gives, run in the DHT process.

        Raises: RpcTimeout, NodeDied.
        """
        return await self.call(self._channel.run(coroutine), timeout_s=timeout_s)

    async def visible_addresses(self) -> tuple[str, ...]:
        """Return the addresses p2pd announces now: relays and mapped ports come late."""
        found: tuple[str, ...] = await self.run_in_dht(dht_process.visible_addresses)
        return found

    async def refusals(self) -> dict[str, int]:
        """Return how often this node refused records of others, by error code."""
        counts: dict[str, int] = await self.run_in_dht(dht_process.refusals)
        return counts

    async def _rejoin_forever(self) -> None:
        join = functools.partial(
            dht_process.join, addresses=self.initial_peers, max_skew_s=MAX_SKEW_S
        )
        while True:
            await asyncio.sleep(REJOIN_INTERVAL_S)
            with contextlib.suppress(RpcTimeout):
                await self.run_in_dht(join, timeout_s=STARTUP_TIMEOUT_S)

    async def close(self) -> None:
        """Stop everything, from the event loop; leaves no process and no socket behind."""
        if self._rejoin is not None:
            self._rejoin.cancel()
            await asyncio.wait({self._rejoin})
        if self._records is not None:
            await self._records.close()
        self._watch.end()
        if self._p2p is not None:
            p2p, self._p2p = self._p2p, None
            await p2p.shutdown()
        await asyncio.to_thread(self.shutdown)

    def shutdown(self) -> None:
        """Stop the DHT process and p2pd; idempotent, blocks up to a few seconds."""
        if self._closed:
            return
        self._closed = True
        self._channel.stop()
        if hivemind_fixes.options.socket_folder == self._folder.path:
            hivemind_fixes.keep_sockets_in(None)  # what this process starts later needs a place
        self._folder.remove()


def _opened(service: T | None) -> T:
    if service is None:
        raise InternalFault("the node is not open, or was opened without this service")
    return service
