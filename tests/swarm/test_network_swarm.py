"""A small network on loopback: peers that know only the bootstrap node, and an attacker."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hivemind.dht import DHT
from hivemind.dht.validation import DHTRecord, RecordValidatorBase

from ares_p2p.domain import Commit, CycleConfig, PeerStatus, RoundPlan
from ares_p2p.ids import sha256
from ares_p2p.network import dht_process, hivemind_fixes, node
from ares_p2p.network.dht_channel import borrowed_event_loop
from ares_p2p.network.record_keys import RecordKey, key_of_chunk, key_of_kind, key_of_payload
from ares_p2p.network.record_rules import CHUNK_TAG, encode_stored_envelope
from netfixtures import (
    ALICE,
    BOB,
    COORDINATOR,
    MALLORY,
    NETWORK,
    ForkedNode,
    identity,
    payload,
    signed,
    start_node,
)

pytestmark = [pytest.mark.swarm, pytest.mark.asyncio(loop_scope="module")]
BOOTSTRAP, DYING = identity(110), identity(111)
MB = 1_000_000


class NoRules(RecordValidatorBase):  # type: ignore[misc]
    """What an attacker's own node applies."""

    def __init__(self, network: Any) -> None:
        pass

    def validate(self, record: DHTRecord) -> bool:
        return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("swarm")


@pytest.fixture(scope="module")
def bootstrap(folder: Path) -> Iterator[ForkedNode]:
    forked = ForkedNode(folder, BOOTSTRAP, relay_service=True)
    yield forked
    forked.end()


@pytest.fixture(scope="module")
def started(folder: Path, bootstrap: ForkedNode) -> Iterator[dict[str, Any]]:
    """Nodes that know nothing but the bootstrap node's address."""
    nodes: dict[str, Any] = {}
    start = functools.partial(start_node, folder, initial_peers=bootstrap.facts.addresses)
    try:
        for name, who in (("coordinator", COORDINATOR), ("alice", ALICE), ("bob", BOB)):
            nodes[name] = start(who)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(node, "AresRecordValidator", NoRules)
            nodes["mallory"] = start(MALLORY)
        yield nodes
    finally:
        for one in nodes.values():
            one.shutdown()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def swarm(started: dict[str, Any], folder: Path) -> AsyncIterator[dict[str, Any]]:
    for name, one in started.items():
        await one.open(folder / f"blobs-{name}")
    yield started
    for one in started.values():
        await one.close()


# --- finding each other ------------------------------------------------------------------------


async def test_peers_that_know_only_the_bootstrap_node_find_each_other(
    swarm: dict[str, Any],
) -> None:
    alice, bob = swarm["alice"], swarm["bob"]
    await alice.records.publish(signed(ALICE, PeerStatus))
    await bob.records.publish(signed(BOB, PeerStatus))
    found = await alice.records.fetch_peers(PeerStatus)
    assert {ALICE.peer_id, BOB.peer_id} <= {record.signer for record in found}
    data = os.urandom(3 * MB)
    blob_id = bob.blobs.store.put(data)
    path = await alice.blobs.fetch(blob_id, sources=[BOB.peer_id], max_bytes=4 * MB, timeout_s=60)
    assert path.read_bytes() == data


async def test_a_source_that_is_killed_midway(
    swarm: dict[str, Any], folder: Path, bootstrap: ForkedNode
) -> None:
    alice, bob = swarm["alice"], swarm["bob"]
    dying = await asyncio.to_thread(
        ForkedNode, folder, DYING, initial_peers=bootstrap.facts.addresses
    )
    try:
        data = os.urandom(40 * MB)
        blob_id = bob.blobs.store.put(data)
        path = bob.blobs.store.path(blob_id)
        theirs = folder / f"blobs-{DYING.peer_id[-8:]}"
        for suffix in (".list", ".blob"):
            (theirs / path.name).with_suffix(suffix).write_bytes(
                path.with_suffix(suffix).read_bytes()
            )

        def kill_midway(done: int, total: int) -> None:
            if done > total / 8 and dying.process.is_alive():
                dying.kill()

        fetched = await alice.blobs.fetch(
            blob_id,
            sources=[DYING.peer_id, BOB.peer_id],
            max_bytes=50 * MB,
            timeout_s=100,
            progress=kill_midway,
        )
        assert not dying.process.is_alive()
        assert sha256(fetched.read_bytes()) == sha256(data)
    finally:
        dying.end()


async def test_a_download_survives_sigkill(swarm: dict[str, Any], folder: Path) -> None:
    """What a killed process fetched is there for the next one (the store is on disk)."""
    alice, bob = swarm["alice"], swarm["bob"]
    data = os.urandom(10 * MB)
    blob_id = bob.blobs.store.put(data)

    async def fetch(**arguments: Any) -> Path:
        found: Path = await alice.blobs.fetch(
            blob_id, sources=[BOB.peer_id], max_bytes=20 * MB, timeout_s=60, **arguments
        )
        return found

    half = asyncio.Event()
    first = asyncio.create_task(
        fetch(progress=lambda done, total: half.set() if done > total / 2 else None)
    )
    await half.wait()
    first.cancel()  # the disk then looks as after SIGKILL: nothing is flushed or closed on purpose
    await asyncio.wait({first})
    if first.cancelled():
        before = alice.blobs.traffic.down_bytes
        assert (await fetch()).read_bytes() == data
        assert alice.blobs.traffic.down_bytes - before < 6 * MB


# --- attacks -----------------------------------------------------------------------------------


async def attack(swarm: dict[str, Any], key: str, value: bytes, **place: Any) -> bool:
    """Store a value as a node that knows no rules; return what the last replica said."""
    store = functools.partial(
        dht_process.store,
        key=key,
        subkey=place.get("subkey"),
        value=value,
        expiration_s=place.get("expiration_s", time.time() + 900),
    )
    return bool(await swarm["mallory"].run_in_dht(store))


async def refusals(swarm: dict[str, Any]) -> int:
    return sum([sum((await swarm[name].refusals()).values()) for name in ("alice", "bob")])


async def test_forged_records_do_not_get_in(swarm: dict[str, Any]) -> None:
    coordinator, alice, bob = swarm["coordinator"], swarm["alice"], swarm["bob"]
    honest = signed(COORDINATOR, RoundPlan, cycle=1, seq=5)
    commit = signed(ALICE, Commit, cycle=1, round=1)
    await coordinator.records.publish(honest)
    await alice.records.publish(commit)
    plan_key = key_of_kind(RoundPlan, network_id=NETWORK.network_id, cycle=1)
    commit_key = key_of_payload(payload(Commit, cycle=1, round=1), signer=ALICE.peer_id)
    before = await refusals(swarm)
    expiration_s = time.time() + 3600

    def leased(envelope: Any, key: RecordKey, expires_s: float = expiration_s) -> bytes:
        return encode_stored_envelope(envelope, key, publisher=MALLORY, expiration_s=expires_s)

    forged = signed(MALLORY, RoundPlan, cycle=1, seq=6)
    stolen = signed(MALLORY, Commit, cycle=1, round=1)
    attacks: list[tuple[str, bytes, dict[str, Any]]] = [
        # wrong signer
        (plan_key, leased(forged, RecordKey(plan_key)), {}),
        # another's subkey; then a plain value over the dictionary, which would erase all of it
        (commit_key.key, leased(stolen, commit_key), {"subkey": ALICE.peer_id}),
        (commit_key.key, leased(stolen, RecordKey(commit_key.key)), {}),
        # the coordinator's own envelope: with a longer life, under another key
        (plan_key, leased(honest, RecordKey(plan_key)), {}),
        (plan_key + "/2", leased(honest, RecordKey(plan_key + "/2")), {}),
        # far future, garbage, oversize
        (plan_key, leased(forged, RecordKey(plan_key), 4e9), {"expiration_s": 4e9}),
        (plan_key, b"garbage", {}),
        (plan_key, b"E" + bytes(200_000), {}),
    ]
    for key, value, place in attacks:
        await attack(swarm, key, value, **({"expiration_s": expiration_s} | place))
    assert await refusals(swarm) > before
    for reader in (coordinator, alice, bob):
        plan = await reader.records.fetch(RoundPlan, cycle=1)
        assert plan is not None
        assert plan.envelope == honest
        found = await reader.records.fetch_peers(Commit, cycle=1, round=1)
        assert [record.envelope for record in found] == [commit]


async def test_chunks_that_lie_do_not_get_in(swarm: dict[str, Any]) -> None:
    data = os.urandom(1000)
    digest = await swarm["coordinator"].records.publish_chunk(data)
    key = key_of_chunk(digest, network_id=NETWORK.network_id)
    await attack(swarm, key, CHUNK_TAG + b"something else", expiration_s=time.time() + 7000)
    for name in ("alice", "bob"):
        assert await swarm[name].records.fetch_chunk(digest) == data


async def test_yesterdays_record_does_not_come_back(swarm: dict[str, Any]) -> None:
    """Rollback: the attacker recorded an old value with its lease and stores it again and again."""
    key = key_of_kind(CycleConfig, network_id=NETWORK.network_id)
    old = signed(COORDINATOR, CycleConfig, cycle=1, seq=1)
    await swarm["coordinator"].records.publish(old)
    get = functools.partial(dht_process.get_many, keys=(key,), latest=True, timeout_s=5)
    value, expiration_s = (await swarm["mallory"].run_in_dht(get))[key]
    new = signed(COORDINATOR, CycleConfig, cycle=2, seq=2)
    await swarm["coordinator"].records.publish(new)
    for later_s in (0, 1, 60, 600):
        await attack(swarm, key, value, expiration_s=expiration_s + later_s)
    for name in ("alice", "bob", "coordinator"):
        found = await swarm[name].records.fetch(CycleConfig)
        assert found is not None
        assert found.envelope == new


# --- hivemind, mended --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain_dht() -> Iterator[Any]:
    """A DHT without our rules: what the mends alone do."""
    hivemind_fixes.apply()
    with borrowed_event_loop():
        dht = DHT(start=True, await_ready=False)
        dht.wait_until_ready(60)
    yield dht
    dht.shutdown()


@pytest.mark.parametrize("size", [65_000, 100_000, 2_000_000])
async def test_large_values_pass_the_control_pipe(plain_dht: Any, size: int) -> None:
    value = os.urandom(size)

    def store_and_get() -> Any:
        stored = plain_dht.store(
            f"key{size}", value, expiration_time=time.time() + 60, return_future=True
        )
        assert stored.result(30)
        return plain_dht.get(f"key{size}", return_future=True).result(30).value

    assert await asyncio.to_thread(store_and_get) == value
    assert plain_dht.is_alive()


# --- a bootstrap node that restarts ------------------------------------------------------------


async def test_a_restarted_bootstrap_node_is_known_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "REJOIN_INTERVAL_S", 0.3)
    first, early, late = identity(120), identity(121), identity(122)
    start = functools.partial(ForkedNode, tmp_path, first)
    bootstrap = await asyncio.to_thread(start)
    (address,) = bootstrap.facts.addresses
    nodes = [start_node(tmp_path, early, initial_peers=(address,))]
    try:
        await nodes[0].open()
        await nodes[0].records.publish(signed(early, PeerStatus))
        await asyncio.to_thread(bootstrap.end)
        bootstrap = await asyncio.to_thread(start, host_addresses=(address.split("/p2p/")[0],))
        nodes.append(start_node(tmp_path, late, initial_peers=(address,)))
        await nodes[1].open()
        for _ in range(200):  # the bootstrap node lost all it knew; early tells it anew
            if await nodes[1].records.fetch_peers(PeerStatus):
                break
            await asyncio.sleep(0.1)
        else:
            pytest.fail("the newcomer never found the peer that was there before the restart")
    finally:
        for one in nodes:
            await one.close()
        await asyncio.to_thread(bootstrap.end)
