"""A session's services over two ways: what is done when one of them fails under a call."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ares_p2p.crypto.envelope import Envelope
from ares_p2p.crypto.keys import Identity
from ares_p2p.domain import Commit, CommitAck, PeerStatus, RoundPlan
from ares_p2p.errors import CoordinatorAway, NodeDied, PeerFault
from ares_p2p.ids import PeerId, blob_id_of
from ares_p2p.network.blob_store import BlobStore
from ares_p2p.network.blobs_memory import InMemoryBlobNetwork, InMemoryBlobs
from ares_p2p.network.control import InMemoryControl, InMemoryControlNetwork
from ares_p2p.network.http_blobs import HttpBlobs
from ares_p2p.network.http_control import HttpControl
from ares_p2p.network.http_records import HttpRecords
from ares_p2p.network.limits import Throttle
from ares_p2p.network.record_keys import key_of_kind
from ares_p2p.network.records_memory import InMemoryRecords
from ares_p2p.network.watching import News, Wish
from ares_p2p.wire.codec import seal
from ares_peer.switched import ALONE_S, SwitchingBlobs, SwitchingControl, SwitchingRecords
from ares_peer.switching import NODE_DIED, HttpServices, Services, Ways
from ares_peer.ways import FIRST_HOLD_MS, LEAVE_AFTER, RETURN_AFTER, Way
from httpfixtures import Site, commit_of, http_site, open_with_commits
from netfixtures import ALICE, COORDINATOR, NETWORK, HandClock, payload, signed

DATA = os.urandom(400_000)
BLOB = blob_id_of(DATA)


class Mortal:
    """Our own services, of a node that can be killed: then every call says so."""

    def __init__(self, inner: Any) -> None:
        self.__dict__.update(inner=inner, is_dead=False)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if not self.is_dead or not asyncio.iscoroutinefunction(found):
            return found

        async def die(*_: Any, **__: Any) -> Any:
            raise NodeDied("p2pd ended")

        return die

    def __setattr__(self, name: str, value: Any) -> None:
        target = self.__dict__ if name == "is_dead" else None
        if target is None:
            setattr(self.inner, name, value)
        else:
            target[name] = value


class PausedClock(HandClock):
    """Nobody wakes before the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.woken = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        await self.woken.wait()
        self.pass_s(seconds)


@dataclass
class Switched:
    """Alice with both ways: P2P in memory, HTTPS to a real server."""

    site: Site
    clock: PausedClock
    control: InMemoryControlNetwork
    network: InMemoryBlobNetwork
    served: InMemoryBlobs
    store: BlobStore
    p2p: Services
    http: HttpServices
    ways: Ways
    said: list[tuple[str, str]]
    handed: list[tuple[str, Envelope]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.records = SwitchingRecords(self.ways)
        self.blobs = SwitchingBlobs(self.ways)
        self.messages = SwitchingControl(self.ways)

    def come(self) -> None:
        """The coordinator can be reached by P2P."""

        async def handler(envelope: Envelope, _remote: PeerId) -> Envelope:
            self.handed.append(("p2p", envelope))
            return signed(COORDINATOR, CommitAck)

        self.control.handlers[COORDINATOR.peer_id] = handler

    def go(self) -> None:
        """It cannot."""
        self.control.handlers.pop(COORDINATOR.peer_id, None)

    def kill_node(self) -> None:
        for one in (self.p2p.records, self.p2p.control, self.p2p.blobs):
            one.is_dead = True  # type: ignore[union-attr]

    async def lose_p2p(self) -> None:
        self.go()
        for _ in range(LEAVE_AFTER):
            await self.ways.look()
        assert self.ways.is_http


def http_services(site: Site, who: Identity, store: BlobStore) -> HttpServices:
    api = site.api(who)
    return HttpServices(HttpRecords(api), HttpControl(api), HttpBlobs(api, store))


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Switched]:
    clock = PausedClock()
    async with http_site(tmp_path / "site", clock=clock) as site:
        control = InMemoryControlNetwork(clock=clock)
        network = InMemoryBlobNetwork()
        served = InMemoryBlobs(network, peer_id=COORDINATOR.peer_id, store=site.blobs.store)
        store = BlobStore(tmp_path / "alice")
        p2p = Services(
            Mortal(InMemoryRecords(site.records, identity=ALICE)),
            Mortal(
                InMemoryControl(control, peer_id=ALICE.peer_id, coordinator=COORDINATOR.peer_id)
            ),
            Mortal(InMemoryBlobs(network, peer_id=ALICE.peer_id, store=store)),
        )
        http, said = http_services(site, ALICE, store), []
        ways = Ways(
            p2p=p2p,
            http=http,
            coordinator=COORDINATOR.peer_id,
            clock=clock,
            on_way=lambda way, why: said.append((way.value, why)),
        )
        made = Switched(site, clock, control, network, served, store, p2p, http, ways, said)

        async def over_http(envelope: Envelope, _remote: PeerId) -> Envelope:
            made.handed.append(("http", envelope))
            return signed(COORDINATOR, CommitAck)

        site.handler = over_http
        made.come()
        await ways.begin()
        yield made
        await made.blobs.close()
        await http.blobs.close()


async def test_p2p_is_the_way_where_it_works(peer: Switched) -> None:
    assert peer.ways.way is Way.P2P
    assert peer.said == [("p2p", "")]
    await peer.messages.submit(signed(ALICE, PeerStatus), to=COORDINATOR.peer_id)
    assert [way for way, _ in peer.handed] == ["p2p"]


async def test_a_start_without_p2p_begins_over_https(peer: Switched, tmp_path: Path) -> None:
    peer.go()
    said: list[Any] = []
    ways = Ways(
        p2p=peer.p2p,
        http=http_services(peer.site, ALICE, peer.store),
        coordinator=COORDINATOR.peer_id,
        clock=peer.clock,
        on_way=lambda way, why: said.append(way),
    )
    await ways.begin()
    assert said == [Way.HTTP]


async def test_messages_go_on_over_https_when_the_coordinator_is_lost(peer: Switched) -> None:
    status = signed(ALICE, PeerStatus)
    peer.go()
    with pytest.raises(CoordinatorAway):  # once is no reason; the caller tries again as always
        await peer.messages.submit(status, to=COORDINATOR.peer_id)
    assert peer.ways._suspicion.is_set()  # but one to look at once
    await peer.lose_p2p()
    assert peer.said[-1] == ("http", "the coordinator does not answer over P2P")
    await peer.messages.submit(status, to=COORDINATOR.peer_id)
    assert peer.handed == [("http", status)]


async def test_p2p_is_taken_again(peer: Switched) -> None:
    await peer.lose_p2p()
    peer.come()
    for _ in range(RETURN_AFTER):
        await peer.ways.look()
    assert peer.ways.is_http  # not so soon
    peer.clock.pass_s(FIRST_HOLD_MS / 1000)
    await peer.ways.look()
    assert peer.said[-1] == ("p2p", "P2P works again")


async def test_a_coordinator_that_is_away_by_both_ways_changes_nothing(peer: Switched) -> None:
    peer.go()
    peer.ways.http = http_services(peer.site, ALICE, peer.store)
    nowhere = peer.site.api(ALICE, url="http://127.0.0.1:9")
    peer.ways.http = HttpServices(
        HttpRecords(nowhere), HttpControl(nowhere), HttpBlobs(nowhere, peer.store)
    )
    for _ in range(3 * LEAVE_AFTER):
        await peer.ways.look()
    assert not peer.ways.is_http


async def test_a_dead_node_is_replaced_within_the_call(peer: Switched) -> None:
    plan = signed(COORDINATOR, RoundPlan, cycle=1)
    await InMemoryRecords(peer.site.records, identity=COORDINATOR).publish(plan)
    peer.kill_node()
    found = await peer.records.fetch(RoundPlan, cycle=1)
    assert found is not None
    assert found.envelope == plan
    assert peer.said[-1] == ("http", NODE_DIED)
    await peer.ways.look()
    assert peer.ways.way is Way.HTTP  # for good: nothing brings it back


async def test_without_https_a_dead_node_is_told(peer: Switched) -> None:
    ways = Ways(
        p2p=peer.p2p, http=None, coordinator=COORDINATOR.peer_id, clock=peer.clock,
        on_way=lambda way, why: None,
    )  # fmt: skip
    await ways.begin()
    records = SwitchingRecords(ways)
    peer.kill_node()
    with pytest.raises(NodeDied):
        await records.fetch(RoundPlan, cycle=1)
    with pytest.raises(NodeDied):
        await SwitchingBlobs(ways).fetch(BLOB, sources=[], max_bytes=1, timeout_s=1)


async def test_a_refusal_is_a_refusal_by_either_way(peer: Switched) -> None:
    async def refuse(_envelope: Envelope, _remote: PeerId) -> Envelope:
        raise PeerFault("no")

    peer.site.handler = refuse
    await peer.lose_p2p()
    with pytest.raises(PeerFault, match="no"):
        await peer.messages.submit(signed(ALICE, PeerStatus), to=COORDINATOR.peer_id)
    assert peer.ways.is_http


async def test_a_download_goes_on_over_the_other_way(peer: Switched) -> None:
    """P2P falls silent in the middle of it; what is here already is not fetched again."""
    data = os.urandom(4_000_000)
    blob_id = peer.served.store.put(data)
    server = peer.network.servers[COORDINATOR.peer_id]
    server._throttle = Throttle(4e6)
    half = asyncio.Event()

    def progress(done: int, total: int) -> None:
        if done > total / 2 and not half.is_set():
            server._throttle = Throttle(1.0)  # a line that hangs, as it does when it is cut
            half.set()

    fetching = asyncio.create_task(
        peer.blobs.fetch(
            blob_id, sources=[COORDINATOR.peer_id], max_bytes=10**7, timeout_s=60, progress=progress
        )
    )
    await half.wait()
    await peer.lose_p2p()
    path = await asyncio.wait_for(fetching, 30)
    assert path.read_bytes() == data
    # idle workers may fetch the last chunks twice
    assert peer.blobs.traffic.down_bytes < len(data) + 1_200_000


async def test_a_download_survives_the_death_of_the_node(peer: Switched) -> None:
    blob_id = peer.served.store.put(DATA)
    peer.kill_node()
    path = await peer.blobs.fetch(
        blob_id, sources=[COORDINATOR.peer_id], max_bytes=10**6, timeout_s=20
    )
    assert path.read_bytes() == DATA


# --- what only we have --------------------------------------------------------------------------


async def settle(peer: Switched) -> None:
    peer.clock.woken.set()
    await asyncio.gather(*peer.blobs._waiting)
    await asyncio.gather(*peer.http.blobs._offers.values())


async def test_a_commit_over_https_is_followed_by_its_blob(peer: Switched) -> None:
    row = commit_of(ALICE, DATA)
    await open_with_commits(peer.site, row)
    await peer.lose_p2p()
    peer.blobs.withhold(BLOB)
    peer.store.put(DATA)
    made = dataclasses.replace(payload(Commit), blob_id=BLOB, blob_size_bytes=len(DATA))
    await peer.messages.submit(seal(ALICE, made), to=COORDINATOR.peer_id)
    await settle(peer)
    assert peer.site.intake.staging.has(BLOB)
    assert not peer.site.blobs.store.has(BLOB)


async def released(peer: Switched) -> None:
    await open_with_commits(peer.site, commit_of(ALICE, DATA))
    peer.blobs.withhold(BLOB)
    peer.store.put(DATA)
    peer.blobs.release(BLOB)


async def test_a_blob_that_somebody_fetches_is_not_handed_in(peer: Switched) -> None:
    before = peer.clock.now_ms()
    await released(peer)
    other = InMemoryBlobs(
        peer.network, peer_id=COORDINATOR.peer_id, store=BlobStore(peer.store.folder / "../carol")
    )
    await other.fetch(BLOB, sources=[ALICE.peer_id], max_bytes=10**6, timeout_s=20)
    await settle(peer)
    assert peer.clock.now_ms() - before >= ALONE_S * 1000 - 1
    assert not peer.site.intake.staging.has(BLOB)


async def test_a_blob_that_nobody_can_fetch_is_handed_in(peer: Switched) -> None:
    """A NAT that lets nobody in: the commit got out by P2P, the contribution does not."""
    await released(peer)
    await settle(peer)
    assert peer.ways.way is Way.P2P
    assert peer.site.intake.staging.has(BLOB)


async def test_a_change_of_the_way_hands_over_what_was_released(peer: Switched) -> None:
    await released(peer)
    peer.blobs.traffic.up_bytes += 10 * len(DATA)  # others fetch, but the coordinator does not
    await settle(peer)
    assert not peer.site.intake.staging.has(BLOB)
    await peer.lose_p2p()
    await settle(peer)
    assert peer.site.intake.staging.has(BLOB)


async def test_a_failing_call_makes_the_keeper_look_at_once(
    peer: Switched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ares_peer.switching.SUSPECT_PROBE_S", 0.01)
    monkeypatch.setattr("ares_peer.ways.SUSPECT_PROBE_S", 0.01)
    keeping = asyncio.create_task(peer.ways.keep())
    peer.go()
    with pytest.raises(CoordinatorAway):
        await peer.messages.submit(signed(ALICE, PeerStatus), to=COORDINATOR.peer_id)
    async with asyncio.timeout(20):  # by itself it would look in a minute
        while not peer.ways.is_http:
            await asyncio.sleep(0.01)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_a_wait_goes_on_by_the_new_way(peer: Switched) -> None:
    key = key_of_kind(RoundPlan, network_id=NETWORK.network_id, cycle=1)
    asked = asyncio.Event()

    async def never(*_: object) -> list[News]:
        asked.set()
        await asyncio.Event().wait()
        return []

    peer.come()
    peer.control.watch_handlers[COORDINATOR.peer_id] = never
    waiting = asyncio.create_task(
        peer.messages.watch([Wish(key)], to=COORDINATOR.peer_id, wait_s=20)
    )
    await asked.wait()
    peer.site.board.post(signed(COORDINATOR, RoundPlan, cycle=1))
    await peer.lose_p2p()
    (news,) = await waiting
    assert news.key == key


async def test_a_wait_survives_the_nodes_death(peer: Switched) -> None:
    key = key_of_kind(RoundPlan, network_id=NETWORK.network_id, cycle=1)
    peer.site.board.post(signed(COORDINATOR, RoundPlan, cycle=1))
    peer.kill_node()
    (news,) = await peer.messages.watch([Wish(key)], to=COORDINATOR.peer_id, wait_s=20)
    assert news.key == key
    assert peer.ways.is_http
