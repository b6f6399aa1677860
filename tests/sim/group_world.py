"""A network whose rounds a group averages: real keeper and sessions, a group in memory.

Played are hivemind and the network under it: members meet at a table, the leader adds up.
What the real group does is for tests/swarm/test_allreduce.py.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ares_coordinator.reducedrounds import LossWatch, ReducedKeeper
from ares_p2p.averaging.group import (
    Averaged,
    Group,
    SeatIn,
    Timing,
    decode_half,
    encode_half,
    half_bytes,
)
from ares_p2p.averaging.vectors import Vector
from ares_p2p.errors import GroupMissed
from ares_p2p.ids import PeerId
from ares_peer.session import Session
from sim.keeper_world import KeeperWorld
from sim.samples import COORDINATOR
from sim.session_world import Peer, VirtualClock

TICK_S = 0.2

# Told the number of the call, and who came; returns what each misses: elements that did not come.
Mishap = Callable[[int, Collection[PeerId]], dict[PeerId, int]]


@dataclass
class Table:
    """Where the members of all groups meet."""

    clock: VirtualClock
    waiting: dict[str, dict[PeerId, tuple[Vector, asyncio.Future[Averaged]]]] = field(
        default_factory=dict
    )
    calls: int = 0
    mishap: Mishap = lambda call, members: {}
    barred: list[set[PeerId]] = field(default_factory=list)  # by call

    def seat_of(self, peer: PeerId) -> SeatIn:
        return lambda group, timing: MemorySeat(self, peer, group, timing)


@dataclass
class MemorySeat:
    """One member's seat."""

    table: Table
    peer: PeerId
    group: Group
    timing: Timing
    is_averaging: bool = False

    async def __aenter__(self) -> MemorySeat:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.table.waiting.get(self.group.key, {}).pop(self.peer, None)

    async def average(
        self,
        vector: Vector,
        *,
        within_s: float,
        wanted: int | None = None,
        barred: Collection[PeerId] = (),
    ) -> Averaged:
        assert self.peer in self.group.peers | {self.group.leader}
        assert vector.shape == (self.group.size,)
        if self.peer == self.group.leader:
            return await self._lead(within_s, wanted or len(self.group.peers) + 1, set(barred))
        mine = asyncio.get_running_loop().create_future()
        members = self.table.waiting.setdefault(self.group.key, {})
        members[self.peer] = (vector, mine)
        await self._until(mine.done, within_s)
        if not mine.done():
            members.pop(self.peer, None)
            raise GroupMissed("the leader did not call")
        averaged: Averaged = mine.result()
        return averaged

    async def _lead(self, within_s: float, wanted: int, barred: set[PeerId]) -> Averaged:
        members = self.table.waiting.setdefault(self.group.key, {})
        await self._until(lambda: len(members) + 1 >= wanted, self.timing.gather_s)
        await self._until(lambda: bool(members), within_s)
        if not members:
            raise GroupMissed("nobody came")
        self.table.waiting.pop(self.group.key)
        self.table.calls += 1
        self.table.barred.append(barred)
        misses = self.table.mishap(self.table.calls, members.keys())
        vectors = [vector for vector, _ in members.values()]
        total = np.mean(vectors, axis=0, dtype=np.float32)
        total = decode_half(encode_half(total), size=self.group.size)
        failed = frozenset(misses) - {self.peer} if self.peer in misses else frozenset()
        whole = Averaged(total, frozenset(members), 0, {}, failed)
        for peer, (_, future) in members.items():
            future.set_result(replace(whole, missing=misses.get(peer, 0)))
        return replace(whole, missing=misses.get(self.peer, 0))

    async def _until(self, there: Callable[[], bool], seconds: float) -> None:
        until_ms = self.table.clock.now_ms() + int(seconds * 1000)
        while not there() and self.table.clock.now_ms() < until_ms:
            await self.table.clock.sleep(TICK_S)


class GroupWorld(KeeperWorld):
    """`KeeperWorld`, averaged in groups."""

    watch_class = LossWatch

    def __init__(self, folder: Path, **arguments: Any) -> None:
        super().__init__(folder, **arguments)
        config = self.host.config
        limits = replace(config.limits, max_blob_bytes=half_bytes(config.parameters))
        self.host.config = replace(config, averaging="hivemind", limits=limits)
        self.table = Table(self.clock)
        seat_in = self.table.seat_of(COORDINATOR.peer_id)
        self.keeper_class = functools.partial(ReducedKeeper, seat_in=seat_in)

    def peer(self) -> Peer:
        """A new volunteer, with P2P."""
        peer = super().peer()
        seat_in = self.table.seat_of(peer.peer_id)
        peer.session_class = functools.partial(Session, seat_in=seat_in)  # type: ignore[assignment]
        return peer
