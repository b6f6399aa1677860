"""Waiting at the coordinator for its records: the board there, and the records that listen to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from ares_coordinator import board as board_module
from ares_coordinator.board import BURST, RecordBoard
from ares_p2p.clock import SystemClock
from ares_p2p.crypto.envelope import Envelope
from ares_p2p.domain import Commit, CommitSet, CycleConfig, LedgerHead, RoundPlan
from ares_p2p.errors import (
    CoordinatorAway,
    NodeDied,
    Oversize,
    PayloadMalformed,
    RateLimited,
    RpcTimeout,
)
from ares_p2p.network import records_watch
from ares_p2p.network.control import InMemoryControl, InMemoryControlNetwork
from ares_p2p.network.record_keys import key_of_kind
from ares_p2p.network.records_memory import InMemoryNetwork, InMemoryRecords
from ares_p2p.network.records_watch import WatchedRecords
from ares_p2p.network.watching import (
    INLINE_BYTES,
    MAX_WISHES,
    News,
    Wish,
    check_news,
)
from ares_peer.links import Links
from netfixtures import ALICE, BOB, COORDINATOR, MALLORY, NETWORK, signed

PLAN_KEY = key_of_kind(RoundPlan, network_id=NETWORK.network_id, cycle=1)
LONG = 3600.0  # a wait that only news ends
PLAN, NEWER = (signed(COORDINATOR, RoundPlan, cycle=1, seq=seq) for seq in (5, 6))


class Clock(SystemClock):
    """Time by hand; who sleeps, sleeps until the test lets it pass."""

    def __init__(self) -> None:
        self._now_ms = SystemClock().now_ms()
        self._sleepers: list[tuple[int, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        return self._now_ms

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now_ms + int(1000 * seconds), woken))
        await woken

    async def pass_s(self, seconds: float) -> None:
        self._now_ms += int(1000 * seconds)
        for at_ms, woken in list(self._sleepers):
            if at_ms <= self._now_ms:
                self._sleepers.remove((at_ms, woken))
                if not woken.done():
                    woken.set_result(None)
        await settle()


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(30):
        await asyncio.sleep(0)


class CountedNetwork(InMemoryNetwork):
    """Counts searches by key."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(NETWORK, clock=clock)
        self.searched: list[str] = []

    async def get_many(self, keys: Sequence[str], *, latest: bool) -> Any:
        self.searched += keys
        return await super().get_many(keys, latest=latest)


@dataclass
class World:
    clock: Clock = field(default_factory=Clock)
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dht = CountedNetwork(self.clock)
        self.coordinator = InMemoryRecords(self.dht, identity=COORDINATOR)
        self.network = InMemoryControlNetwork(clock=self.clock)
        self.network.handlers[COORDINATOR.peer_id] = None
        self.control = InMemoryControl(
            self.network, peer_id=ALICE.peer_id, coordinator=COORDINATOR.peer_id
        )
        self.asked: list[tuple[Wish, ...]] = []
        self.records = WatchedRecords(
            InMemoryRecords(self.dht, identity=ALICE),
            self.ask,
            network_id=NETWORK.network_id,
            clock=self.clock,
        )
        self.begin()

    def begin(self) -> None:
        """The coordinator starts."""
        self.board = RecordBoard(
            identity=COORDINATOR,
            network=NETWORK,
            transport=self.dht,
            clock=self.clock,
            monotonic=lambda: self.clock.now_ms() / 1000,
        )
        self.network.handlers[COORDINATOR.peer_id] = None
        self.network.watch_handlers[COORDINATOR.peer_id] = self.board.watch

    def end(self) -> None:
        """It is gone; what waited there is cut."""
        self.network.handlers.pop(COORDINATOR.peer_id, None)
        for woken in list(self.board._waits.values()):
            if not woken.done():
                woken.set_result(None)

    async def ask(self, wishes: Sequence[Wish], wait_s: float) -> list[News]:
        self.asked.append(tuple(wishes))
        return await self.control.watch(wishes, to=COORDINATOR.peer_id, wait_s=wait_s)

    def run(self, coroutine: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(coroutine)
        self.tasks.append(task)
        return task

    async def keep(self) -> None:
        """Let the peer wait at the coordinator."""
        self.run(self.records.keep())
        await self.clock.pass_s(records_watch.LEAST_PAUSE_S)

    async def hear(self) -> None:
        """Let what was said arrive, and the next wait begin."""
        await settle()
        await self.clock.pass_s(records_watch.LEAST_PAUSE_S)

    async def plan(self) -> int | None:
        """Return the sequence of the plan that the peer sees."""
        found = await self.records.fetch(RoundPlan, cycle=1)
        return None if found is None else found.payload.header.seq


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)


# --- the board -----------------------------------------------------------------------------------


async def test_a_wait_ends_with_the_record(world: World) -> None:
    waiting = world.run(world.board.watch([Wish(PLAN_KEY)], LONG, ALICE.peer_id))
    await settle()
    assert not waiting.done()
    world.board.post(PLAN)
    (news,) = await waiting
    assert (news.key, news.payload_sha256) == (PLAN_KEY, PLAN.payload_sha256)
    found = world.records.believe(news.key, (news.value, news.expiration_s))
    assert found is not None
    assert found.envelope == PLAN  # the very bytes
    assert world.board.waiting == 0


async def test_what_is_known_is_not_said_again(world: World) -> None:
    world.board.post(PLAN)
    assert await world.board.watch([Wish(PLAN_KEY)], 0, ALICE.peer_id) != []
    known = Wish(PLAN_KEY, PLAN.payload_sha256)
    assert await world.board.watch([known], 0, ALICE.peer_id) == []
    waiting = world.run(world.board.watch([known], 20, ALICE.peer_id))
    await settle()
    await world.clock.pass_s(20)
    assert await waiting == []  # the end of the wait, and of its traces
    assert (world.board.waiting, world.board._waiting) == (0, {})


async def test_what_was_signed_before_the_start_is_looked_up_once(world: World) -> None:
    await world.coordinator.publish(PLAN)
    world.dht.searched.clear()
    for who in (ALICE, BOB):
        (news,) = await world.board.watch([Wish(PLAN_KEY)], 0, who.peer_id)
        assert news.payload_sha256 == PLAN.payload_sha256
    nothing = key_of_kind(CommitSet, network_id=NETWORK.network_id, cycle=1, round=3)
    for who in (ALICE, BOB):
        assert await world.board.watch([Wish(nothing)], 0, who.peer_id) == []
    assert world.dht.searched == [PLAN_KEY, nothing]


async def test_rounds_that_were_opened_since_the_start_need_no_search(world: World) -> None:
    def key(number: int) -> str:
        return key_of_kind(CommitSet, network_id=NETWORK.network_id, cycle=1, round=number)

    for number in (3, 4):  # the first may have been opened before the start
        world.board.post(signed(COORDINATOR, RoundPlan, cycle=1, round=number, seq=number))
    wishes = [Wish(key(number)) for number in (3, 4, 5)]
    assert await world.board.watch(wishes, 0, ALICE.peer_id) == []
    assert world.dht.searched == [key(3), key(5)]


async def test_nothing_is_claimed_while_the_dht_is_away(world: World) -> None:
    world.dht.is_down = True
    with pytest.raises(CoordinatorAway):
        await world.board.watch([Wish(PLAN_KEY)], 0, ALICE.peer_id)
    world.board.post(PLAN)  # its own word needs no DHT
    assert await world.board.watch([Wish(PLAN_KEY)], 0, ALICE.peer_id) != []


async def test_a_large_record_is_only_named(world: World) -> None:
    large = signed(COORDINATOR, CommitSet, cycle=1, round=2, commits=(b"x" * INLINE_BYTES,))
    world.board.post(large)
    key = key_of_kind(CommitSet, network_id=NETWORK.network_id, cycle=1, round=2)
    assert await world.board.watch([Wish(key)], 0, ALICE.peer_id) == [
        News(key, large.payload_sha256)
    ]


async def test_a_lease_is_renewed_for_who_asks_later(world: World) -> None:
    world.board.post(PLAN)
    (first,) = await world.board.watch([Wish(PLAN_KEY)], 0, ALICE.peer_id)
    await world.clock.pass_s(50 * 60)
    (later,) = await world.board.watch([Wish(PLAN_KEY)], 0, ALICE.peer_id)
    assert later.expiration_s - first.expiration_s == pytest.approx(50 * 60)


@pytest.mark.parametrize(
    "wishes",
    [
        [],
        [Wish(PLAN_KEY)] * (MAX_WISHES + 1),
        [Wish("ares/another-network/round-plan/1")],
        [Wish(key_of_kind(Commit, network_id=NETWORK.network_id, cycle=1, round=1))],
        [Wish(f"ares/{NETWORK.network_id}/chunk/{'0' * 64}")],
        [Wish(PLAN_KEY, b"short")],
    ],
)
async def test_other_questions_are_refused(world: World, wishes: list[Wish]) -> None:
    with pytest.raises(PayloadMalformed):
        await world.board.watch(wishes, 0, MALLORY.peer_id)
    assert world.dht.searched == []


async def test_a_flood_is_refused_and_harms_nobody_else(world: World) -> None:
    for _ in range(int(BURST)):
        await world.board.watch([Wish(PLAN_KEY)], 0, MALLORY.peer_id)
    with pytest.raises(RateLimited):
        await world.board.watch([Wish(PLAN_KEY)], 0, MALLORY.peer_id)
    assert await world.board.watch([Wish(PLAN_KEY)], 0, ALICE.peer_id) == []


async def test_a_peer_waits_once(world: World) -> None:
    waits = [
        world.run(world.board.watch([Wish(PLAN_KEY)], LONG, MALLORY.peer_id)) for _ in range(5)
    ]
    await settle()
    assert [one.done() for one in waits] == [True] * 4 + [False]
    assert world.board.waiting == 1


async def test_waits_are_bounded_in_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_module, "MAX_WAITING", 2)
    waits = [
        world.run(world.board.watch([Wish(PLAN_KEY)], LONG, who.peer_id))
        for who in (ALICE, BOB, MALLORY)
    ]
    await settle()
    with pytest.raises(RateLimited):
        waits[2].result()
    world.board.post(PLAN)
    for one in waits[:2]:
        assert len(await one) == 1


async def test_who_hangs_up_leaves_nothing_behind(world: World) -> None:
    waiting = world.run(world.board.watch([Wish(PLAN_KEY)], LONG, ALICE.peer_id))
    await settle()
    waiting.cancel()
    await settle()
    assert (world.board.waiting, world.board._waiting) == (0, {})


async def test_a_thousand_waits_are_woken_by_one_post(world: World) -> None:
    waits = [
        world.run(world.board.watch([Wish(PLAN_KEY)], LONG, f"peer {number}"))
        for number in range(1000)
    ]
    await settle()
    assert world.board.waiting == 1000
    assert world.dht.searched.count(PLAN_KEY) <= 1000
    world.board.post(PLAN)
    assert {len(await one) for one in waits} == {1}


async def test_an_answer_to_something_else_is_refused() -> None:
    wishes, digest = [Wish(PLAN_KEY)], bytes(32)
    check_news([News(PLAN_KEY, digest)], wishes)
    for news in ([News("another", digest)], [News(PLAN_KEY, digest)] * 2, [News(PLAN_KEY, b"")]):
        with pytest.raises(PayloadMalformed):
            check_news(news, wishes)
    with pytest.raises(Oversize):
        check_news([News(PLAN_KEY, digest, bytes(10**5))], wishes)


# --- the records that listen ---------------------------------------------------------------------


async def test_news_come_without_asking_the_dht(world: World) -> None:
    await world.keep()
    assert await world.plan() is None
    await world.hear()
    world.dht.searched.clear()
    resting = world.run(world.records.rest(LONG))
    await settle()
    assert not resting.done()
    world.board.post(PLAN)  # and not in the DHT
    await resting
    assert await world.plan() == 5
    for _ in range(50):  # however often
        await world.plan()
        await world.clock.pass_s(0.4)
    assert world.dht.searched == []


async def test_a_key_that_is_new_joins_the_running_wait(world: World) -> None:
    await world.keep()
    await world.plan()
    await world.hear()
    assert await world.records.fetch(CommitSet, cycle=1, round=0) is None
    await world.hear()
    world.board.post(signed(COORDINATOR, CommitSet, cycle=1, round=0))
    await world.hear()
    calls = len(world.asked)
    assert await world.records.fetch(CommitSet, cycle=1, round=0) is not None
    assert len(world.asked) == calls


async def test_a_key_that_nobody_asks_for_is_let_go(world: World) -> None:
    await world.keep()
    await world.plan()
    await world.records.fetch(CycleConfig)
    await world.hear()
    for _ in range(100):
        await world.records.fetch(CycleConfig)
        await world.clock.pass_s(1)
    assert [wish.key for wish in world.asked[-1]] == [
        key_of_kind(CycleConfig, network_id=NETWORK.network_id)
    ]
    world.board.post(PLAN)
    assert await world.plan() == 5  # and asked for anew when somebody does


async def test_without_the_coordinator_the_dht_speaks(world: World) -> None:
    world.end()
    await world.coordinator.publish(PLAN)
    await world.keep()
    assert await world.plan() == 5
    await world.coordinator.publish(NEWER)
    assert await world.plan() == 6
    world.dht.is_down = True
    with pytest.raises(RpcTimeout):
        await world.plan()


async def test_a_restart_is_survived(world: World) -> None:
    await world.keep()
    world.board.post(PLAN)
    await world.coordinator.publish(PLAN)
    assert await world.plan() == 5
    await world.hear()
    world.end()
    await settle()
    await world.coordinator.publish(NEWER)
    assert await world.plan() == 6  # from the DHT, at once
    world.begin()
    await world.clock.pass_s(records_watch.LONGEST_RETRY_S)
    await world.hear()
    await world.plan()
    await world.hear()
    world.dht.searched.clear()
    world.board.post(signed(COORDINATOR, RoundPlan, cycle=1, seq=7))
    await world.hear()
    assert await world.plan() == 7
    assert world.dht.searched == []


async def test_what_lies_in_public_and_is_not_told_is_found(world: World) -> None:
    await world.keep()
    world.board.post(PLAN)
    assert await world.plan() == 5
    await world.coordinator.publish(NEWER)  # the board keeps silent about it
    assert await world.plan() == 5
    await world.clock.pass_s(records_watch.LOOK_EVERY_MS / 1000)
    assert await world.plan() == 6
    assert await world.plan() == 6  # the older word does not come back


async def test_an_older_record_never_takes_the_place_of_a_newer(world: World) -> None:
    await world.keep()
    world.board.post(NEWER)
    assert await world.plan() == 6
    await world.hear()
    world.board.post(PLAN)  # a coordinator that was set back
    await world.hear()
    assert await world.plan() == 6


async def test_a_forged_record_is_refused_and_does_not_spin(world: World) -> None:
    world.board._identity = MALLORY  # its leases do not hold
    await world.keep()
    world.board.post(PLAN)
    assert await world.plan() is None
    assert world.records.refused
    for _ in range(10):
        await world.hear()
    assert len(world.asked) < 6
    await world.coordinator.publish(PLAN)
    assert await world.plan() == 5  # it was named, so the DHT is asked


async def test_a_large_record_comes_from_the_dht(world: World) -> None:
    large = signed(COORDINATOR, CommitSet, cycle=1, round=2, commits=(b"x" * INLINE_BYTES,))
    await world.keep()
    await world.coordinator.publish(large)
    world.board.post(large)
    found = await world.records.fetch(CommitSet, cycle=1, round=2)
    assert found is not None
    assert found.envelope == large
    world.dht.searched.clear()
    await world.records.fetch(CommitSet, cycle=1, round=2)
    assert world.dht.searched == []


async def test_the_head_of_the_ledger_is_read_where_everybody_reads_it(world: World) -> None:
    head: Envelope = signed(COORDINATOR, LedgerHead, cycle=1)
    world.board.post(head)
    assert await world.records.fetch(LedgerHead) is None
    await world.coordinator.publish(head)
    assert await world.records.fetch(LedgerHead) is not None


async def test_a_dead_node_ends_the_wait_and_the_question(world: World) -> None:
    async def dead(_wishes: Sequence[Wish], _wait_s: float) -> list[News]:
        raise NodeDied("p2pd ended")

    await world.keep()
    await world.plan()
    await world.hear()
    world.records._ask = dead
    world.board.post(PLAN)  # ends the wait, and the next one fails
    await world.hear()
    await world.tasks[0]
    with pytest.raises(NodeDied):
        await world.plan()


async def test_links_rest_until_there_is_news(world: World) -> None:
    links = Links(
        ALICE, NETWORK.network_id, COORDINATOR.peer_id, world.records, None, world.control,  # type: ignore[arg-type]
        world.clock, rest=world.records.rest,
    )  # fmt: skip
    await world.keep()
    waiting = world.run(
        links.wait_for(lambda: world.records.fetch(RoundPlan, cycle=1), until=lambda: False)
    )
    await world.hear()
    assert not waiting.done()
    world.board.post(PLAN)
    await settle()  # no time passes
    assert waiting.done()
    assert waiting.result() is not None
