"""One suite over all kinds of records: in memory, in a real DHT, over HTTP; all on loopback."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from ares_p2p.clock import SystemClock
from ares_p2p.crypto.keys import Identity
from ares_p2p.domain import (
    Commit,
    CommitAck,
    CommitSet,
    CycleConfig,
    DatasetManifest,
    NetworkDescriptor,
    PeerStatus,
    RoundManifest,
    RoundPlan,
)
from ares_p2p.errors import (
    Oversize,
    PayloadMalformed,
    RecordUnavailable,
    StaleSequence,
    WrongNetwork,
    WrongSigner,
)
from ares_p2p.ids import sha256
from ares_p2p.network.http_records import HttpRecords
from ares_p2p.network.invite import Invite
from ares_p2p.network.record_keys import MAX_CHUNK_BYTES
from ares_p2p.network.records import Records
from ares_p2p.network.records_memory import InMemoryNetwork, InMemoryRecords
from httpfixtures import http_site
from netfixtures import ALICE, BOB, COORDINATOR, MALLORY, NETWORK, signed, start_node

pytestmark = pytest.mark.asyncio(loop_scope="module")
NAMES = {"coordinator": COORDINATOR, "alice": ALICE, "bob": BOB}
_numbers = itertools.count(1)


def fresh() -> int:
    """Return a number that no other test uses, as a cycle or a seq: the DHT is shared."""
    return next(_numbers)


class World:
    """A coordinator and two peers."""

    def __init__(self, records: dict[str, Records], *, peers_keep_chunks: bool = True) -> None:
        self.peers_keep_chunks = peers_keep_chunks
        self.coordinator, self.alice, self.bob = (
            records["coordinator"],
            records["alice"],
            records["bob"],
        )


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    started: dict[str, Any] = {}
    folder = tmp_path_factory.mktemp("records")
    try:
        for name, who in NAMES.items():
            peers = started["coordinator"].addresses if started else ()
            started[name] = start_node(folder, who, initial_peers=peers)
        yield started
    finally:
        for node in started.values():
            node.shutdown()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def hivemind_world(nodes: dict[str, Any]) -> AsyncIterator[World]:
    for node in nodes.values():
        await node.open()
    yield World({name: node.records for name, node in nodes.items()})
    for node in nodes.values():
        await node.close()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def memory_world() -> World:
    network = InMemoryNetwork(NETWORK, clock=SystemClock())
    return World({name: InMemoryRecords(network, identity=who) for name, who in NAMES.items()})


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def http_world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """The coordinator is in the DHT; the peers see it through the coordinator's API."""
    async with http_site(tmp_path_factory.mktemp("site")) as site:
        records: dict[str, Records] = {
            "coordinator": InMemoryRecords(site.records, identity=COORDINATOR),
            "alice": HttpRecords(site.api(ALICE)),
            "bob": HttpRecords(site.api(BOB)),
        }
        yield World(records, peers_keep_chunks=False)


@pytest.fixture(
    params=["memory", "http", pytest.param("hivemind", marks=pytest.mark.swarm)], scope="module"
)
def world(request: pytest.FixtureRequest) -> World:
    found: World = request.getfixturevalue(f"{request.param}_world")
    return found


async def test_nothing_is_none(world: World) -> None:
    assert await world.alice.fetch(RoundPlan, cycle=fresh()) is None
    assert await world.alice.fetch_peers(Commit, cycle=fresh(), round=1) == []


@pytest.mark.parametrize(
    "cls", [NetworkDescriptor, CycleConfig, DatasetManifest, RoundPlan, CommitSet, RoundManifest]
)
async def test_what_the_coordinator_publishes_everybody_reads(world: World, cls: type) -> None:
    cycle = fresh()
    envelope = signed(COORDINATOR, cls, cycle=cycle, round=2, seq=cycle)
    await world.coordinator.publish(envelope)
    for reader in (world.alice, world.bob, world.coordinator):
        found: Any = await reader.fetch(cls, cycle=cycle, round=2)
        assert found is not None
        assert found.envelope == envelope
        assert found.payload.header.cycle == cycle
        assert found.signer == COORDINATOR.peer_id


async def test_rounds_and_cycles_lie_apart(world: World) -> None:
    cycle = fresh()
    for number in (1, 2):
        await world.coordinator.publish(
            signed(COORDINATOR, RoundManifest, cycle=cycle, round=number)
        )
    for number in (1, 2):
        found = await world.alice.fetch(RoundManifest, cycle=cycle, round=number)
        assert found is not None
        assert found.payload.header.round == number
    assert await world.alice.fetch(RoundManifest, cycle=cycle, round=3) is None


async def test_the_newer_plan_takes_the_older_ones_place(world: World) -> None:
    cycle = fresh()
    for number in (1, 2, 3):
        envelope = signed(COORDINATOR, RoundPlan, cycle=cycle, round=number, seq=number)
        await world.coordinator.publish(envelope)
        found = await world.bob.fetch(RoundPlan, cycle=cycle)
        assert found is not None
        assert found.payload.header.round == number


async def test_older_is_refused_when_published(world: World) -> None:
    cycle = fresh()
    await world.coordinator.publish(signed(COORDINATOR, RoundPlan, cycle=cycle, seq=5))
    await world.coordinator.publish(signed(COORDINATOR, RoundPlan, cycle=cycle, seq=5))
    with pytest.raises(StaleSequence):
        await world.coordinator.publish(signed(COORDINATOR, RoundPlan, cycle=cycle, seq=4))
    with pytest.raises(StaleSequence):
        await world.coordinator.publish(
            signed(COORDINATOR, RoundPlan, cycle=cycle, seq=5, min_steps=11)
        )
    found = await world.alice.fetch(RoundPlan, cycle=cycle)
    assert found is not None
    assert found.payload.header.seq == 5
    assert found.payload.min_steps != 11


@pytest.mark.parametrize(
    ("who", "cls", "error"),
    [
        (MALLORY, RoundPlan, WrongSigner),
        (MALLORY, CycleConfig, WrongSigner),
        (COORDINATOR, CommitAck, PayloadMalformed),
        (BOB, Commit, WrongSigner),  # alice publishes bob's: she cannot lease it
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_what_nobody_would_accept_is_refused_at_once(
    world: World, who: Identity, cls: type, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await world.alice.publish(signed(who, cls, cycle=fresh()))


async def test_another_networks_records_are_refused(world: World) -> None:
    other = Invite("other", COORDINATOR.peer_id).network
    with pytest.raises(WrongNetwork):
        await world.coordinator.publish(signed(COORDINATOR, RoundPlan, network=other))


async def test_each_peer_has_its_own_place(world: World) -> None:
    cycle = fresh()
    commits = {who.peer_id: signed(who, Commit, cycle=cycle, round=1) for who in (ALICE, BOB)}
    await world.alice.publish(commits[ALICE.peer_id])
    await world.bob.publish(commits[BOB.peer_id])
    found = await world.coordinator.fetch_peers(Commit, cycle=cycle, round=1)
    assert {record.signer: record.envelope for record in found} == commits
    assert [record.signer for record in found] == sorted(commits)
    assert await world.coordinator.fetch_peers(Commit, cycle=cycle, round=2) == []


async def test_the_coordinator_may_publish_a_peers_commit(world: World) -> None:
    cycle = fresh()
    await world.coordinator.publish(signed(MALLORY, Commit, cycle=cycle, round=1))
    (found,) = await world.bob.fetch_peers(Commit, cycle=cycle, round=1)
    assert found.signer == MALLORY.peer_id


async def test_a_peers_newer_status_replaces_its_older(world: World) -> None:
    for seq in (fresh(), fresh()):
        await world.alice.publish(signed(ALICE, PeerStatus, seq=seq))
    found = await world.bob.fetch_peers(PeerStatus)
    assert [record.payload.header.seq for record in found] == [seq]


async def test_a_peer_cannot_take_back_what_was_seen(world: World) -> None:
    old, new = fresh(), fresh()
    await world.alice.publish(signed(ALICE, PeerStatus, seq=new))
    await world.bob.fetch_peers(PeerStatus)
    with pytest.raises(StaleSequence):  # alice's own reading of it tells her
        await world.alice.publish(signed(ALICE, PeerStatus, seq=old))
    (found,) = [r for r in await world.bob.fetch_peers(PeerStatus) if r.signer == ALICE.peer_id]
    assert found.payload.header.seq == new
    assert world.bob.refused_counts[StaleSequence.code] >= 1
    assert world.bob.refused[-1].peer == ALICE.peer_id


async def test_republishing_keeps_the_same_envelope(world: World) -> None:
    cycle = fresh()
    envelope = signed(COORDINATOR, RoundPlan, cycle=cycle)
    for _ in range(3):
        await world.coordinator.publish(envelope)
    found = await world.alice.fetch(RoundPlan, cycle=cycle)
    assert found is not None
    assert found.envelope == envelope


# --- chunks ------------------------------------------------------------------------------------


async def test_chunks_are_found_by_their_hash(world: World) -> None:
    chunks = [os.urandom(size) for size in (1, 1000, MAX_CHUNK_BYTES)] + [b""]
    digests = [await world.coordinator.publish_chunk(chunk) for chunk in chunks]
    assert digests == [sha256(chunk) for chunk in chunks]
    assert await world.alice.fetch_chunks([*digests, digests[0]]) == [*chunks, chunks[0]]
    assert await world.bob.fetch_chunk(digests[2]) == chunks[2]
    if world.peers_keep_chunks:
        assert await world.alice.publish_chunk(chunks[0]) == digests[0]  # again, by somebody else
    else:
        with pytest.raises(WrongSigner):
            await world.alice.publish_chunk(chunks[0])


async def test_many_chunks_come_in_order(world: World) -> None:
    chunks = [os.urandom(2000) for _ in range(40)]
    digests = [await world.coordinator.publish_chunk(chunk) for chunk in chunks]
    assert await world.bob.fetch_chunks(digests) == chunks


async def test_missing_and_oversize_chunks_are_said(world: World) -> None:
    with pytest.raises(RecordUnavailable):
        await world.alice.fetch_chunk(sha256(os.urandom(8)))
    with pytest.raises(Oversize):
        await world.alice.publish_chunk(bytes(MAX_CHUNK_BYTES + 1))
