"""Messages to the coordinator: over real p2pd, over HTTP, and in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ares_coordinator.board import RecordBoard
from ares_p2p.clock import SystemClock
from ares_p2p.crypto.envelope import Envelope
from ares_p2p.domain import Commit, CommitAck, RoundPlan
from ares_p2p.errors import (
    BadSignature,
    CommitLate,
    CoordinatorAway,
    PayloadMalformed,
    PeerFault,
    RateLimited,
    RpcTimeout,
    StoreFault,
    UnknownRound,
    WrongSigner,
)
from ares_p2p.ids import PeerId
from ares_p2p.network.control import (
    Control,
    InMemoryControl,
    InMemoryControlNetwork,
    SubmitHandler,
)
from ares_p2p.network.http_control import HttpControl
from ares_p2p.network.record_keys import key_of_kind
from ares_p2p.network.records_memory import InMemoryNetwork
from ares_p2p.network.watching import NOTHING, News, WatchHandler, Wish
from httpfixtures import Site, http_site
from netfixtures import ALICE, BOB, COORDINATOR, MALLORY, NETWORK, signed, start_node

pytestmark = [pytest.mark.swarm, pytest.mark.asyncio(loop_scope="module")]
COMMIT = signed(ALICE, Commit, cycle=1, round=2)
ACK = signed(COORDINATOR, CommitAck)


def board() -> RecordBoard:
    """Return a coordinator's board that knows nothing yet."""
    clock = SystemClock()
    dht = InMemoryNetwork(NETWORK, clock=clock)
    return RecordBoard(identity=COORDINATOR, network=NETWORK, transport=dht, clock=clock)


class World:
    def __init__(
        self,
        coordinator: Control,
        alice: Control,
        *,
        is_reached: bool = True,
        board: RecordBoard,
    ) -> None:
        self.coordinator, self.alice, self.board = coordinator, alice, board
        coordinator.on_watch(board.watch)
        self.is_reached = is_reached  # alice, by the coordinator


class SiteControl:
    """The coordinator's own end of the API."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def on_submit(self, handler: SubmitHandler | None) -> None:
        self._site.handler = handler

    def on_watch(self, handler: WatchHandler | None) -> None:
        """The site has a board of its own."""

    async def watch(self, wishes: Sequence[Wish], *, to: PeerId, wait_s: float) -> list[News]:
        raise RpcTimeout("nobody reaches a peer behind HTTP")

    async def submit(self, envelope: Envelope, *, to: PeerId, timeout_s: float = 1) -> Envelope:
        raise RpcTimeout("nobody reaches a peer behind HTTP")

    async def time_of(self, peer: PeerId) -> int:
        raise RpcTimeout("nobody reaches a peer behind HTTP")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    folder = tmp_path_factory.mktemp("control")
    first = start_node(folder, COORDINATOR)
    second = start_node(folder, ALICE, initial_peers=first.addresses)
    yield [first, second]
    first.shutdown()
    second.shutdown()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def hivemind_world(nodes: list[Any]) -> AsyncIterator[World]:
    for node in nodes:
        await node.open()
    coordinator, alice = (node.control for node in nodes)
    yield World(coordinator, alice, board=board())
    for node in nodes:
        await node.close()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def memory_world() -> World:
    network = InMemoryControlNetwork(clock=SystemClock())
    coordinator, alice = (
        InMemoryControl(network, peer_id=who.peer_id, coordinator=COORDINATOR.peer_id)
        for who in (COORDINATOR, ALICE)
    )
    return World(coordinator, alice, board=board())


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def http_world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with http_site(tmp_path_factory.mktemp("site")) as site:
        alice = HttpControl(site.api(ALICE))
        yield World(SiteControl(site), alice, is_reached=False, board=site.board)


@pytest.fixture(params=["memory", "http", "hivemind"], scope="module")
def world(request: pytest.FixtureRequest) -> World:
    found: World = request.getfixturevalue(f"{request.param}_world")
    return found


async def submit(world: World, **arguments: Any) -> Envelope:
    return await world.alice.submit(
        COMMIT, **({"to": COORDINATOR.peer_id, "timeout_s": 30} | arguments)
    )


async def test_a_submission_is_acknowledged(world: World) -> None:
    seen: list[tuple[Envelope, PeerId]] = []

    async def handler(envelope: Envelope, remote: PeerId) -> Envelope:
        seen.append((envelope, remote))
        return ACK

    world.coordinator.on_submit(handler)
    assert await submit(world) == ACK
    assert seen == [(COMMIT, ALICE.peer_id)]


async def test_without_a_handler_there_is_no_round(world: World) -> None:
    world.coordinator.on_submit(None)
    with pytest.raises(UnknownRound):
        await submit(world)
    with pytest.raises(UnknownRound if world.is_reached else RpcTimeout):
        await world.coordinator.submit(COMMIT, to=ALICE.peer_id, timeout_s=30)


async def test_a_refusal_arrives_as_itself(world: World) -> None:
    async def handler(_envelope: Envelope, _remote: PeerId) -> Envelope:
        raise CommitLate("2.5 s after the deadline")

    world.coordinator.on_submit(handler)
    with pytest.raises(CommitLate, match=r"2\.5 s after"):
        await submit(world)


async def test_only_the_coordinator_acknowledges(world: World) -> None:
    answers = [
        signed(MALLORY, CommitAck),
        Envelope(ACK.payload_type, ACK.payload, ACK.public_key, bytes(64)),
    ]

    async def handler(_envelope: Envelope, _remote: PeerId) -> Envelope:
        return answers.pop(0)

    world.coordinator.on_submit(handler)
    with pytest.raises(WrongSigner):
        await submit(world)
    with pytest.raises(BadSignature):
        await submit(world)


async def test_silence_is_noticed(world: World) -> None:
    async def handler(_envelope: Envelope, _remote: PeerId) -> Envelope:
        await asyncio.sleep(5)
        return ACK

    world.coordinator.on_submit(handler)
    with pytest.raises((CoordinatorAway, RpcTimeout)):
        await submit(world, timeout_s=0.2)
    world.coordinator.on_submit(None)


async def test_news_arrive_at_who_waits(world: World) -> None:
    key = key_of_kind(RoundPlan, network_id=NETWORK.network_id, cycle=7)
    plan = signed(COORDINATOR, RoundPlan, cycle=7)

    async def ask(known: bytes, wait_s: float) -> list[News]:
        return await world.alice.watch([Wish(key, known)], to=COORDINATOR.peer_id, wait_s=wait_s)

    assert await ask(NOTHING, 0) == []
    waiting = asyncio.create_task(ask(NOTHING, 30))
    while not world.board.waiting:  # the call is there
        await asyncio.sleep(0.01)
    world.board.post(plan)
    (news,) = await waiting
    assert (news.key, news.payload_sha256) == (key, plan.payload_sha256)
    assert news.value
    assert await ask(plan.payload_sha256, 0) == []


async def test_a_refused_question_arrives_as_itself(world: World) -> None:
    with pytest.raises(PayloadMalformed, match="of this network"):
        await world.alice.watch([Wish("ares/other/plan/1")], to=COORDINATOR.peer_id, wait_s=0)


async def test_who_hangs_up_is_not_waited_for(hivemind_world: World) -> None:
    key = key_of_kind(RoundPlan, network_id=NETWORK.network_id, cycle=8)
    waiting = asyncio.create_task(
        hivemind_world.alice.watch([Wish(key)], to=COORDINATOR.peer_id, wait_s=30)
    )
    while not hivemind_world.board.waiting:
        await asyncio.sleep(0.01)
    waiting.cancel()
    async with asyncio.timeout(15):  # half of the wait: at its end the call would be gone anyway
        while hivemind_world.board.waiting:
            await asyncio.sleep(0.01)


async def test_absent_peers_are_told_apart_from_the_coordinator(world: World) -> None:
    with pytest.raises(RpcTimeout):
        await submit(world, to=BOB.peer_id)


async def test_clocks_are_compared(world: World) -> None:
    there = await world.alice.time_of(COORDINATOR.peer_id)
    assert abs(there - SystemClock().now_ms()) < 10_000


async def test_our_own_faults_do_not_travel(hivemind_world: World) -> None:
    async def handler(_envelope: Envelope, _remote: PeerId) -> Envelope:
        raise StoreFault("/home/me/secret.db is broken")

    hivemind_world.coordinator.on_submit(handler)
    with pytest.raises((CoordinatorAway, PeerFault)) as caught:
        await submit(hivemind_world)
    assert "secret" not in str(caught.value)


async def test_floods_are_refused(hivemind_world: World) -> None:
    async def handler(_envelope: Envelope, _remote: PeerId) -> Envelope:
        return ACK

    hivemind_world.coordinator.on_submit(handler)
    answers = await asyncio.gather(
        *(submit(hivemind_world) for _ in range(60)), return_exceptions=True
    )
    assert ACK in answers
    assert any(isinstance(answer, RateLimited) for answer in answers)
    assert all(answer == ACK or isinstance(answer, RateLimited) for answer in answers)


async def test_a_coordinator_that_left_is_away(nodes: list[Any], tmp_path: Path) -> None:
    network = InMemoryControlNetwork(clock=SystemClock())
    coordinator, alice = (
        InMemoryControl(network, peer_id=who.peer_id, coordinator=COORDINATOR.peer_id)
        for who in (COORDINATOR, ALICE)
    )
    coordinator.leave()
    with pytest.raises(CoordinatorAway):
        await alice.submit(COMMIT, to=COORDINATOR.peer_id, timeout_s=1)
    with pytest.raises(CoordinatorAway):
        await alice.time_of(COORDINATOR.peer_id)
