"""What runs inside the DHT process, sent there by reference through hivemind's `run_coroutine`.

Only plain values go in and out (they are pickled between two processes of one node, never over
the network). Nothing here raises: a search that fails or takes too long is simply not answered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any

from hivemind.p2p import PeerID
from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError, P2PHandlerError
from hivemind.proto import dht_pb2
from hivemind.utils.multiaddr import Multiaddr

from ares_p2p.network.record_rules import FoundValue

MAX_STORED_RECORDS = 16_384  # of 50 kB: 0.8 GB at the very worst, a few MB in practice
PING_TIMEOUT_S = 5.0
_NO_ANSWER = (P2PDaemonError, P2PHandlerError, OSError, EOFError, TimeoutError, ValueError)


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """What a node learns from its DHT process once it runs."""

    peer_id: str
    p2pd_pid: int
    control_address: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Greeting:
    """A bootstrap peer, and how far its clock is ahead of ours; None: it did not answer."""

    peer_id: str
    skew_s: float | None


async def describe(_dht: Any, node: Any) -> ProcessFacts:
    """Return the facts, after bounding what the node stores for others."""
    node.protocol.storage.maxsize = MAX_STORED_RECORDS
    return ProcessFacts(
        peer_id=node.peer_id.to_base58(),
        p2pd_pid=node.p2p._child.pid,
        control_address=str(node.p2p.daemon_listen_maddr),
        addresses=await visible_addresses(_dht, node),
    )


async def visible_addresses(_dht: Any, node: Any) -> tuple[str, ...]:
    """Return the addresses others may reach this node at; empty when p2pd has none."""
    try:
        return tuple(str(address) for address in await node.get_visible_maddrs(latest=True))
    except (ValueError, OSError):  # hivemind says "none" so; or p2pd is gone
        return ()


async def refusals(_dht: Any, node: Any) -> dict[str, int]:
    """Return how often this node's validators refused a value, by error code."""
    counts: dict[str, int] = {}
    for validator in node.protocol.record_validator._validators:
        for code, count in getattr(validator, "refused", {}).items():
            counts[code] = counts.get(code, 0) + count
    return counts


async def _greet(node: Any, peer: PeerID, addresses: Sequence[str]) -> Greeting:
    """Dial a peer and compare clocks; half the way there and back is charged to each side."""
    try:
        dial = node.p2p._client.connect(peer, [_without_peer(address) for address in addresses])
        await asyncio.wait_for(dial, PING_TIMEOUT_S)
        sent_s = time.time()
        stub = node.protocol.get_stub(peer)
        reply = await stub.rpc_ping(dht_pb2.PingRequest(), timeout=PING_TIMEOUT_S)
        received_s = time.time()
    except _NO_ANSWER:
        return Greeting(peer.to_base58(), None)
    return Greeting(peer.to_base58(), reply.dht_time - (sent_s + received_s) / 2)


def _without_peer(address: str) -> Multiaddr:
    return Multiaddr(address.rsplit("/p2p/", 1)[0])


async def join(
    _dht: Any, node: Any, *, addresses: Sequence[str], max_skew_s: float
) -> tuple[Greeting, ...]:
    """Greet the bootstrap peers and make those whose clocks agree part of the routing table.

    Called again from time to time: a bootstrap node that restarts knows nobody otherwise.
    """
    by_peer: dict[str, list[str]] = {}
    for address in addresses:
        by_peer.setdefault(address.rsplit("/p2p/", 1)[1], []).append(address)
    by_peer.pop(node.peer_id.to_base58(), None)
    greetings = await asyncio.gather(
        *(_greet(node, PeerID.from_base58(peer), places) for peer, places in by_peer.items())
    )
    agreeing = [g for g in greetings if g.skew_s is not None and abs(g.skew_s) <= max_skew_s]
    pings: list[Awaitable[Any]] = [
        node.protocol.call_ping(PeerID.from_base58(greeting.peer_id)) for greeting in agreeing
    ]
    await asyncio.gather(*pings)
    if agreeing:
        search = asyncio.ensure_future(node.find_nearest_nodes([node.node_id]))
        await asyncio.wait([search], timeout=PING_TIMEOUT_S)
    return tuple(greetings)


def _plain(found: Any) -> FoundValue:
    if found is None:
        return None
    value, expiration_s = found
    if not isinstance(value, dict):
        return value, expiration_s
    return {str(subkey): (item.value, item.expiration_time) for subkey, item in value.items()}


async def get_many(
    _dht: Any, node: Any, *, keys: Sequence[str], latest: bool, timeout_s: float
) -> dict[str, FoundValue]:
    """Return what was found under each key in time; `latest` asks all nodes near it."""
    wanted = float("inf") if latest else None
    searches = await node.get_many(
        list(keys), sufficient_expiration_time=wanted, return_futures=True
    )
    futures = {key: asyncio.ensure_future(search) for key, search in searches.items()}
    await asyncio.wait(futures.values(), timeout=timeout_s)
    found: dict[str, FoundValue] = {}
    for key, future in futures.items():
        if future.done() and not future.cancelled() and future.exception() is None:
            found[key] = _plain(future.result())
        else:
            future.cancel()
            found[key] = None
    return found


async def store(
    _dht: Any, node: Any, *, key: str, subkey: str | None, value: bytes, expiration_s: float
) -> bool:
    """Store a value at the nodes nearest to its key; return whether the last of them took it."""
    return bool(await node.store(key, value, expiration_s, subkey=subkey))
