"""Sessions whose records come from the coordinator's board: rounds, restarts, and what the DHT costs."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ares_coordinator.board import RecordBoard
from ares_p2p.crypto.keys import Identity
from ares_p2p.domain import Commit, CycleConfig, PeerStatus, RoundPlan
from ares_p2p.ids import Digest
from ares_p2p.network.record_keys import RecordKey, key_of_kind
from ares_p2p.network.records_watch import LONGEST_RETRY_S, LOOK_EVERY_MS, WatchedRecords
from ares_p2p.rounds.plan import RoundTimes
from ares_p2p.wire.codec import kind_of, seal
from ares_peer.announcer import DHT_EVERY_MS
from ares_peer.events import CycleDone, RoundDone
from ares_peer.links import Links
from sim.samples import COORDINATOR, CYCLE
from sim.session_world import NETWORK, World

PLAN_KEY = key_of_kind(RoundPlan, network_id=NETWORK.network_id, cycle=CYCLE)


class NewsWorld(World):
    """Peers wait at the coordinator. `searches` counts who asked the DHT for what."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        super().__init__(folder, **changes)
        self.searches: Counter[str] = Counter()
        search = self.records.get_many

        async def counted(keys: Sequence[str], *, latest: bool) -> Any:
            self.searches.update(keys)
            return await search(keys, latest=latest)

        self.records.get_many = counted  # type: ignore[method-assign]
        self.host.publish = self.say  # type: ignore[method-assign]
        self.begin_board()

    def begin_board(self) -> None:
        """The coordinator starts: it remembers nothing of what it said before."""
        self.board = RecordBoard(
            identity=COORDINATOR,
            network=NETWORK,
            transport=self.records,
            clock=self.clock,
            monotonic=lambda: self.clock.now_ms() / 1000,
        )
        self.control.watch_handlers[COORDINATOR.peer_id] = self.board.watch
        self.host.come_back()

    def end_board(self) -> None:
        """It ends; what waits there is cut."""
        self.host.go_away()
        for woken in list(self.board._waits.values()):
            if not woken.done():
                woken.set_result(None)

    async def say(self, payload: Any) -> Digest:
        envelope = seal(COORDINATOR, payload)
        self.board.post(envelope)
        await self.host.links.records.publish(envelope)
        return envelope.payload_sha256

    def links(self, who: Identity, folder: Path) -> Links:
        links = super().links(who, folder)
        if who is COORDINATOR:
            return links
        control = links.control
        records = WatchedRecords(
            links.records,
            lambda wishes, wait_s: control.watch(wishes, to=COORDINATOR.peer_id, wait_s=wait_s),
            network_id=NETWORK.network_id,
            clock=self.clock,
        )
        self.tasks.append(asyncio.create_task(records.keep()))
        return dataclasses.replace(links, records=records, rest=records.rest)


async def test_a_cycle_needs_next_to_nothing_of_the_dht(tmp_path: Path) -> None:
    async with NewsWorld(tmp_path, rounds=3) as world:
        peers = [world.peer().start(exit_after_cycle=True) for _ in range(2)]
        began_ms = world.clock.now_ms()
        for number in range(3):
            await world.host.play_round(number, wanted=2)
        for number in range(3):
            await world.host.settle(number)
        for peer in peers:
            await peer.hears(CycleDone)
            assert [event.status for event in peer.heard(RoundDone)] == ["accepted"] * 3
        minutes = 1 + (world.clock.now_ms() - began_ms) // LOOK_EVERY_MS
        # once by the board, and once a minute by each peer
        assert world.searches[PLAN_KEY] <= 1 + 2 * minutes + 3  # and by who published it


@pytest.mark.parametrize("forgets", [False, True])
async def test_rounds_go_on_when_the_coordinator_restarts(tmp_path: Path, forgets: bool) -> None:
    async with NewsWorld(tmp_path, rounds=3) as world:
        peer = world.peer().start()
        await world.host.play_round(0)
        await peer.hears(RoundDone)
        world.end_board()
        if forgets:
            await world.pass_s(3 * LONGEST_RETRY_S)
        world.begin_board()
        await world.host.play_round(1)
        await peer.hears(RoundDone, 2)
        await world.host.play_round(2)
        last = await peer.hears(RoundDone, 3)
        assert last.status == "accepted"


async def test_a_plan_that_is_only_in_public_is_worked_on(tmp_path: Path) -> None:
    """The coordinator opens a round and keeps silent about it towards those who wait."""
    async with NewsWorld(tmp_path, rounds=2) as world:
        peer = world.peer().start()
        await world.host.play_round(0)
        await peer.hears(RoundDone)
        world.board.post = lambda envelope: None  # type: ignore[method-assign]
        await world.host.open_round(1, times=RoundTimes(train_s=300, serve_s=20))
        await world.host.collect(1)
        assert world.host.book is not None
        assert peer.peer_id in world.host.book.commits


async def test_a_session_finds_the_cycle_of_before_the_coordinators_start(tmp_path: Path) -> None:
    async with NewsWorld(tmp_path, rounds=1) as world:
        world.end_board()
        world.begin_board()
        peer = world.peer().start()
        await world.host.play_round(0)
        await peer.hears(RoundDone)
        key = key_of_kind(CycleConfig, network_id=NETWORK.network_id)
        assert world.searches[key] > 0


async def test_being_there_is_told_to_the_coordinator_and_rarely_to_the_dht(tmp_path: Path) -> None:
    async with NewsWorld(tmp_path, rounds=1) as world:
        stored: Counter[str] = Counter()
        store = world.records.store

        async def counted(key: RecordKey, value: bytes, expiration_s: float) -> bool:
            stored[key.key.split("/")[2]] += 1
            return await store(key, value, expiration_s)

        world.records.store = counted  # type: ignore[method-assign]
        peer = world.peer().start()
        await world.until(lambda: len(world.host.announced) >= 2)
        stored.clear()
        world.host.announced.clear()
        await world.pass_s(5 * DHT_EVERY_MS / 1000)
        minutes = 5
        assert minutes - 1 <= stored[kind_of(PeerStatus)] <= minutes + 1
        assert world.host.announced.count(peer.peer_id) >= 3 * minutes
        await world.host.play_round(0)
        await peer.hears(RoundDone)
        assert stored[kind_of(Commit)] == 0  # it was acknowledged


async def test_a_commit_lies_in_the_dht_when_the_coordinator_does_not_answer(
    tmp_path: Path,
) -> None:
    async with NewsWorld(tmp_path, rounds=1) as world:
        peer = world.peer().start()
        await world.until(lambda: bool(world.host.announced))
        await world.host.open_round(0)
        world.end_board()
        await world.pass_s(30)
        await world.host.close()
        assert [item.peer for item in world.host._closed.in_order()] == [peer.peer_id]
