"""One suite over all ways to exchange blobs: in memory, over real p2pd, over HTTP; on loopback."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ares_p2p.errors import (
    BlobUnavailable,
    HashMismatch,
    Oversize,
    PayloadMalformed,
    RpcTimeout,
)
from ares_p2p.ids import CHUNK_BYTES, PeerId, blob_id_of, chunk_list_of
from ares_p2p.network.blob_serve import ServeLimits
from ares_p2p.network.blob_store import BlobStore
from ares_p2p.network.blobs import Blobs
from ares_p2p.network.blobs_memory import InMemoryBlobNetwork, InMemoryBlobs
from ares_p2p.network.http_blobs import HttpBlobs
from httpfixtures import http_site
from netfixtures import ALICE, BOB, COORDINATOR, MALLORY, start_node

pytestmark = pytest.mark.asyncio(loop_scope="module")
NAMES = {"carol": COORDINATOR, "alice": ALICE, "bob": BOB}
NOBODY = MALLORY.peer_id
MB = 1_000_000


class World:
    """Three peers; behind HTTP only carol, the coordinator, serves."""

    def __init__(self, blobs: dict[str, Blobs], *, peers_serve: bool = True) -> None:
        self.peers_serve = peers_serve
        self.carol, self.alice, self.bob = blobs["carol"], blobs["alice"], blobs["bob"]
        self.ids: dict[str, PeerId] = {name: who.peer_id for name, who in NAMES.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("blobs")


@pytest.fixture(scope="module")
def nodes(folder: Path) -> Iterator[dict[str, Any]]:
    started: dict[str, Any] = {}
    try:
        for name, who in NAMES.items():
            peers = started["carol"].addresses if started else ()
            started[name] = start_node(folder, who, initial_peers=peers)
        yield started
    finally:
        for node in started.values():
            node.shutdown()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def hivemind_world(nodes: dict[str, Any], folder: Path) -> AsyncIterator[World]:
    for name, node in nodes.items():
        await node.open(folder / f"hivemind-{name}")
    yield World({name: node.blobs for name, node in nodes.items()})
    for node in nodes.values():
        await node.close()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def memory_world(folder: Path) -> World:
    network = InMemoryBlobNetwork()
    return World(
        {
            name: InMemoryBlobs(
                network, peer_id=who.peer_id, store=BlobStore(folder / f"memory-{name}")
            )
            for name, who in NAMES.items()
        }
    )


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def http_world(folder: Path) -> AsyncIterator[World]:
    async with http_site(folder / "site") as site:
        blobs: dict[str, Blobs] = {"carol": site.blobs}
        for name, who in (("alice", ALICE), ("bob", BOB)):
            blobs[name] = HttpBlobs(site.api(who), BlobStore(folder / f"http-{name}"))
        yield World(blobs, peers_serve=False)


def needs_serving_peers(world: World) -> None:
    if not world.peers_serve:
        pytest.skip("behind HTTP a peer serves nobody: the coordinator does it for all")


@pytest.fixture(
    params=["memory", "http", pytest.param("hivemind", marks=pytest.mark.swarm)], scope="module"
)
def world(request: pytest.FixtureRequest) -> World:
    found: World = request.getfixturevalue(f"{request.param}_world")
    return found


async def fetch(blobs: Blobs, blob_id: bytes, *sources: PeerId, **arguments: Any) -> Path:
    return await blobs.fetch(
        blob_id, sources=sources, **({"max_bytes": 10 * MB, "timeout_s": 60} | arguments)
    )


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * MB])
async def test_a_blob_arrives_whole(world: World, size: int) -> None:
    data = os.urandom(size)
    blob_id = world.carol.store.put(data)
    seen: list[tuple[int, int]] = []
    path = await fetch(
        world.alice, blob_id, world.ids["carol"], progress=lambda *step: seen.append(step)
    )
    assert path.read_bytes() == data
    assert seen[0] == (0, size)
    assert seen[-1] == (size, size)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert await fetch(world.alice, blob_id) == path  # it is here: no source needed


async def test_bytes_are_counted_on_both_sides(world: World) -> None:
    data = os.urandom(MB)
    blob_id = world.carol.store.put(data)
    up, down = world.carol.traffic.up_bytes, world.alice.traffic.down_bytes
    await fetch(world.alice, blob_id, world.ids["carol"])
    assert world.carol.traffic.up_bytes - up >= MB
    assert world.alice.traffic.down_bytes - down >= MB


async def test_several_sources_share_the_work(world: World) -> None:
    needs_serving_peers(world)
    data = os.urandom(8 * MB)
    blob_id = world.carol.store.put(data)
    world.bob.store.put(data)
    before = world.carol.traffic.up_bytes, world.bob.traffic.up_bytes
    path = await fetch(world.alice, blob_id, world.ids["carol"], world.ids["bob"])
    assert path.read_bytes() == data
    assert world.carol.traffic.up_bytes - before[0] >= MB
    assert world.bob.traffic.up_bytes - before[1] >= MB


async def test_what_was_fetched_is_served(world: World) -> None:
    blob_id = world.carol.store.put(os.urandom(MB))
    await fetch(world.alice, blob_id, world.ids["carol"])
    await fetch(world.bob, blob_id, world.ids["alice"])
    assert world.bob.store.has(blob_id)


async def test_withheld_is_like_not_held(world: World) -> None:
    data = os.urandom(1000)
    blob_id = blob_id_of(data)
    world.carol.withhold(blob_id)
    world.carol.store.put(data)
    for wanted in (blob_id, blob_id_of(os.urandom(1000))):
        with pytest.raises(BlobUnavailable):
            await fetch(world.alice, wanted, world.ids["carol"])
    held_not, never_held = list(world.alice.faults)[-2:]
    assert (held_not.code, held_not.message) == (never_held.code, never_held.message)
    assert held_not.code == BlobUnavailable.code
    world.carol.release(blob_id)
    assert (await fetch(world.alice, blob_id, world.ids["carol"])).read_bytes() == data


async def test_too_large_is_refused_before_it_comes(world: World) -> None:
    blob_id = world.carol.store.put(os.urandom(MB))
    down = world.alice.traffic.down_bytes
    with pytest.raises((Oversize, BlobUnavailable)):
        await fetch(world.alice, blob_id, world.ids["carol"], max_bytes=MB - 1)
    assert world.alice.traffic.down_bytes == down
    assert not world.alice.store.has(blob_id)


async def test_absent_sources_are_dropped_and_the_rest_carries_on(world: World) -> None:
    needs_serving_peers(world)
    data = os.urandom(2 * MB)
    blob_id = world.bob.store.put(data)
    path = await fetch(world.alice, blob_id, NOBODY, world.ids["carol"], world.ids["bob"])
    assert path.read_bytes() == data


async def test_no_source_at_all_is_said(world: World) -> None:
    with pytest.raises(BlobUnavailable, match="no source was named"):
        await fetch(world.alice, bytes(32))


async def test_a_lying_source_is_dropped_by_name(world: World) -> None:
    needs_serving_peers(world)
    data = os.urandom(2 * MB)
    blob_id = world.carol.store.put(data)
    world.bob.store.put(data)
    honest = world.bob.store.read_chunk
    world.bob.store.read_chunk = lambda *place: bytes(len(honest(*place)))  # type: ignore[method-assign]
    try:
        path = await fetch(world.alice, blob_id, world.ids["bob"], world.ids["carol"])
    finally:
        world.bob.store.read_chunk = honest  # type: ignore[method-assign]
    assert path.read_bytes() == data
    fault = world.alice.faults[-1]
    assert (fault.source, fault.blob_id, fault.code) == (
        world.ids["bob"],
        blob_id,
        HashMismatch.code,
    )


async def test_a_lying_list_is_dropped(world: World) -> None:
    needs_serving_peers(world)
    data = os.urandom(1000)
    blob_id = world.carol.store.put(data)
    world.bob.store.put(data)
    honest = world.bob.store.chunk_list
    world.bob.store.chunk_list = lambda _: chunk_list_of(b"else")  # type: ignore[method-assign]
    try:
        path = await fetch(world.alice, blob_id, world.ids["bob"], world.ids["carol"])
        assert path.read_bytes() == data
        assert world.alice.faults[-1].code == HashMismatch.code
    finally:
        world.bob.store.chunk_list = honest  # type: ignore[method-assign]


async def test_a_download_goes_on_from_what_is_there(world: World) -> None:
    data = os.urandom(5 * CHUNK_BYTES)
    blob_id, chunks = world.carol.store.put(data), chunk_list_of(data)
    world.alice.store.begin_partial(blob_id, chunks)  # as a killed process leaves it
    for index in (0, 3):
        piece = data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
        world.alice.store.write_chunk(blob_id, chunks, index, piece)
    down = world.alice.traffic.down_bytes
    path = await fetch(world.alice, blob_id, world.ids["carol"])
    assert path.read_bytes() == data
    # idle workers may fetch the last chunks twice, but what was there is not asked for again
    assert world.alice.traffic.down_bytes - down <= 2 * 3 * CHUNK_BYTES


# --- some chunks of a blob ----------------------------------------------------------------------


async def fetch_chunks(blobs: Blobs, blob_id: bytes, *sources: PeerId, **arguments: Any) -> None:
    await blobs.fetch_chunks(
        blob_id, sources=sources, **({"max_bytes": 10 * MB, "timeout_s": 60} | arguments)
    )


async def test_some_chunks_come_alone_and_can_be_read(world: World) -> None:
    data = os.urandom(7 * CHUNK_BYTES + 1000)
    blob_id = world.carol.store.put(data)
    world.bob.store.put(data)
    down = world.alice.traffic.down_bytes
    seen: list[tuple[int, int]] = []
    await fetch_chunks(
        world.alice,
        blob_id,
        world.ids["carol"],
        world.ids["bob"],
        chunks={2, 3, 7},
        progress=lambda *step: seen.append(step),
    )
    wanted = 2 * CHUNK_BYTES + 1000
    assert (seen[0], seen[-1]) == ((0, wanted), (wanted, wanted))
    assert wanted <= world.alice.traffic.down_bytes - down < 2 * wanted + CHUNK_BYTES
    store = world.alice.store
    start, stop = 2 * CHUNK_BYTES + 17, 4 * CHUNK_BYTES - 5
    assert store.read_range(blob_id, start, stop) == data[start:stop]
    assert store.read_range(blob_id, 7 * CHUNK_BYTES, len(data)) == data[7 * CHUNK_BYTES :]
    for start, stop in ((0, 10), (CHUNK_BYTES, 2 * CHUNK_BYTES + 1), (0, len(data) + 1)):
        with pytest.raises(BlobUnavailable):
            store.read_range(blob_id, start, stop)


async def test_some_chunks_are_no_blob_and_are_not_served_as_one(world: World) -> None:
    needs_serving_peers(world)
    data = os.urandom(4 * CHUNK_BYTES)
    blob_id = world.carol.store.put(data)
    await fetch_chunks(world.alice, blob_id, world.ids["carol"], chunks={1})
    assert not world.alice.store.has(blob_id)
    assert blob_id not in world.alice.store.ids()
    with pytest.raises(BlobUnavailable):
        await fetch(world.bob, blob_id, world.ids["alice"])
    path = await fetch(world.alice, blob_id, world.ids["carol"])  # the rest, when it is wanted
    assert path.read_bytes() == data
    assert world.alice.store.read_range(blob_id, 5, 10) == data[5:10]


async def test_some_chunks_and_more_of_them_later(world: World) -> None:
    data = os.urandom(6 * CHUNK_BYTES)
    blob_id, chunks = world.carol.store.put(data), chunk_list_of(data)
    world.alice.store.begin_partial(blob_id, chunks, {4})  # as a killed process leaves it
    world.alice.store.write_chunk(blob_id, chunks, 4, data[4 * CHUNK_BYTES : 5 * CHUNK_BYTES])
    down = world.alice.traffic.down_bytes
    await fetch_chunks(world.alice, blob_id, world.ids["carol"], chunks={4})
    assert world.alice.traffic.down_bytes == down  # nothing was missing
    await fetch_chunks(world.alice, blob_id, world.ids["carol"], chunks={1, 4, 5})
    assert (
        world.alice.store.read_range(blob_id, 4 * CHUNK_BYTES, len(data))
        == (data[4 * CHUNK_BYTES :])
    )
    assert await fetch(world.carol, blob_id)  # it is here: no source needed
    await fetch_chunks(world.carol, blob_id, chunks={0})


async def test_a_lying_source_of_some_chunks_is_dropped_by_name(world: World) -> None:
    needs_serving_peers(world)
    data = os.urandom(4 * CHUNK_BYTES)
    blob_id = world.carol.store.put(data)
    world.bob.store.put(data)
    honest = world.bob.store.read_chunk
    world.bob.store.read_chunk = lambda *place: bytes(len(honest(*place)))  # type: ignore[method-assign]
    try:
        with pytest.raises(BlobUnavailable, match="no source is left"):
            await fetch_chunks(world.alice, blob_id, world.ids["bob"], chunks={2})
        assert world.alice.faults[-1].code == HashMismatch.code
        sources = (world.ids["bob"], world.ids["carol"])
        await fetch_chunks(world.alice, blob_id, *sources, chunks={2})
    finally:
        world.bob.store.read_chunk = honest  # type: ignore[method-assign]
    bounds = (2 * CHUNK_BYTES, 3 * CHUNK_BYTES)
    assert world.alice.store.read_range(blob_id, *bounds) == data[slice(*bounds)]


async def test_chunks_that_a_blob_has_not_got_are_refused(world: World) -> None:
    blob_id = world.carol.store.put(os.urandom(CHUNK_BYTES))
    with pytest.raises(PayloadMalformed, match="has 1 chunks, chunk 1 is asked for"):
        await fetch_chunks(world.alice, blob_id, world.ids["carol"], chunks={0, 1})


async def test_two_calls_for_one_blob_are_one_download(world: World) -> None:
    blob_id = world.carol.store.put(os.urandom(2 * MB))
    down = world.alice.traffic.down_bytes
    paths = await asyncio.gather(
        *(fetch(world.alice, blob_id, world.ids["carol"]) for _ in range(3))
    )
    assert len(set(paths)) == 1
    assert world.alice.traffic.down_bytes - down < 2 * 2 * MB


async def test_bad_requests_are_refused(world: World) -> None:
    blob_id = world.carol.store.put(os.urandom(1000))
    transport: Any = world.alice._transport  # type: ignore[attr-defined]
    for wanted, first, count in ((blob_id, 0, 0), (blob_id, 0, 65), (blob_id, 1, 1), (b"x", 0, 1)):
        with pytest.raises(Exception, match=r"E05|E034") as caught:
            async for _ in transport.chunks(world.ids["carol"], wanted, first=first, count=count):
                pass
        assert not isinstance(caught.value, RpcTimeout)


# --- only in memory: what a simulation can make others do --------------------------------------


async def test_misbehaving_sources(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ares_p2p.network.blobs_memory import Misbehaviour

    monkeypatch.setattr("ares_p2p.network.blob_fetch.PIECE_TIMEOUT_S", 0.2)
    monkeypatch.setattr("ares_p2p.network.blob_fetch.NEXT_SOURCE_S", 0.05)
    network = InMemoryBlobNetwork()
    peers = [NAMES["carol"], NAMES["alice"], NAMES["bob"]]
    carol, alice, bob = (
        InMemoryBlobs(network, peer_id=who.peer_id, store=BlobStore(folder / f"bad-{number}"))
        for number, who in enumerate(peers)
    )
    for how in Misbehaviour:
        data = os.urandom(2 * MB)
        blob_id = carol.store.put(data)
        bob.store.put(data)
        network.misbehaviour[BOB.peer_id] = how
        path = await fetch(alice, blob_id, BOB.peer_id, COORDINATOR.peer_id)
        assert path.read_bytes() == data, how
        alice.store.delete(blob_id)
        with pytest.raises(BlobUnavailable):
            await fetch(alice, blob_id, BOB.peer_id)


async def test_a_source_that_leaves_midway(folder: Path) -> None:
    from ares_p2p.network.blobs_memory import Misbehaviour

    network = InMemoryBlobNetwork()
    slow = ServeLimits(upload_bytes_per_s=4e6)
    carol, alice, bob = (
        InMemoryBlobs(
            network, peer_id=who.peer_id, store=BlobStore(folder / f"leave-{number}"), limits=slow
        )
        for number, who in enumerate((COORDINATOR, ALICE, BOB))
    )
    data = os.urandom(8 * MB)
    blob_id = carol.store.put(data)
    bob.store.put(data)

    def leave_midway(done: int, total: int) -> None:
        if done > total / 4:
            network.misbehaviour[BOB.peer_id] = Misbehaviour.AWAY

    path = await fetch(alice, blob_id, BOB.peer_id, COORDINATOR.peer_id, progress=leave_midway)
    assert path.read_bytes() == data


async def test_time_runs_out_and_what_came_is_kept(folder: Path) -> None:
    network = InMemoryBlobNetwork()
    slow = ServeLimits(upload_bytes_per_s=1e6)
    carol = InMemoryBlobs(
        network, peer_id=COORDINATOR.peer_id, store=BlobStore(folder / "t1"), limits=slow
    )
    alice = InMemoryBlobs(network, peer_id=ALICE.peer_id, store=BlobStore(folder / "t2"))
    data = os.urandom(4 * MB)
    blob_id = carol.store.put(data)
    with pytest.raises(BlobUnavailable, match="not complete after"):
        await fetch(alice, blob_id, COORDINATOR.peer_id, timeout_s=1)
    assert alice.store.begin_partial(blob_id, chunk_list_of(data))
