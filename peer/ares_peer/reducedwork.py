"""A round of a peer whose cycle is averaged in a group, on hivemind's averager.

Train and commit as in any round; what is committed to is the vector in float16, which stays on
this peer's disk: after a restart it still is what was promised. When the commits close, the peers
that committed meet the coordinator and average. The peer asks for the group again and again until
there is a manifest, because the coordinator may have to call it anew: a member died, or the
coordinator itself was started again.

Everybody who misses nothing has the same bits, and finds the signed digest. Who missed the group
or a part of it loses that round only, and fetches the signed snapshot.

Source: docs/averaging.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from ares_p2p.averaging.group import (
    Averaged,
    Group,
    Seat,
    SeatIn,
    decode_half,
    encode_half,
    group_of,
    timing_of,
)
from ares_p2p.averaging.vectors import Vector
from ares_p2p.domain import CommitSet, CycleConfig, RoundManifest, RoundPlan
from ares_p2p.errors import AverageFailed, GroupMissed
from ares_p2p.ids import Digest
from ares_p2p.rounds.commits import SignedCommit
from ares_p2p.training.outer import pseudo_gradient
from ares_peer.exchange import Total
from ares_peer.links import Links
from ares_peer.patience import RoundLost
from ares_peer.roundwork import RoundWork

if TYPE_CHECKING:  # that module brings torch, which nothing here needs
    from ares_p2p.training.inner import LocalResult

MEET_S = 60.0  # for one group; after that it is asked for anew
AGAIN_S = 1.0
LOOK_S = 0.1  # while an average ends

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class GroupExchange:
    """The group of one round. `start`, then `sum_of` the manifest, then `stop`.

    Args:
        seat_in: takes a seat in a group, over the node's P2P.
        blob_id: of this peer's vector; None: its commit is not in the round, it only follows.
    """

    links: Links
    config: CycleConfig
    plan: RoundPlan
    group: Group
    seat_in: SeatIn
    blob_id: Digest | None
    _task: asyncio.Task[None] | None = None
    _seat: Seat | None = None
    _averaged: Averaged | None = None
    _why: str = "this peer is not in the group"

    def start(self) -> None:
        """Take a seat, and average whenever the coordinator calls."""
        if self.blob_id is not None:
            self._task = asyncio.create_task(self._take_part(self.blob_id), name="ares-group")

    async def stop(self) -> None:
        """Leave the group."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def sum_of(self, manifest: RoundManifest) -> Total:
        """Return what makes the round's sum: the last average.

        Raises: RoundLost: there is none here, or not a whole one.
        """
        while self._seat is not None and self._seat.is_averaging:
            await self.links.clock.sleep(LOOK_S)  # ends in time by itself
        if not any(entry.coefficient for entry in manifest.entries):
            return lambda: None
        averaged = self._averaged
        if averaged is None or not averaged.is_complete:
            missed = self._why if averaged is None else f"{averaged.missing} numbers did not come"
            raise RoundLost(f"the signed state is to be fetched: {missed}")
        return lambda: averaged.total

    async def _take_part(self, blob_id: Digest) -> None:
        try:
            vector = await asyncio.to_thread(self._own_vector, blob_id)
            async with self.seat_in(self.group, timing_of(self.plan)) as seat:
                self._seat = seat
                while True:
                    await self._average(seat, vector)
        except Exception as error:  # whoever waits for the sum learns why there is none
            log.exception("group_left")
            self._why = f"{type(error).__name__}: {error}"

    def _own_vector(self, blob_id: Digest) -> Vector:
        return decode_half(self.links.blobs.store.read(blob_id), size=self.group.size)

    async def _average(self, seat: Seat, vector: Vector) -> None:
        try:
            self._averaged = await seat.average(vector, within_s=MEET_S)
        except (GroupMissed, AverageFailed) as fault:
            self._why = fault.message
            await self.links.clock.sleep(AGAIN_S)
            return
        place, averaged = self.plan.header.round, self._averaged
        self.links.blobs.traffic.up_bytes += averaged.sent_bytes
        self.links.blobs.traffic.down_bytes += averaged.received_bytes
        log.info("averaged", round=place, peers=len(averaged.peers), missing=averaged.missing)
        for peer, why in averaged.refused.items():
            log.warning("part_refused", round=place, peer=peer, code=why.code, why=why.message)


@dataclass(slots=True)
class ReducedWork(RoundWork):
    """The work of one round that is averaged in a group. One instance per round."""

    seat_in: SeatIn | None = None

    def make_contribution(self, result: LocalResult) -> bytes:
        """Return the bytes that the commit promises: the pseudo-gradient in float16."""
        return encode_half(pseudo_gradient(self.state.theta, result.theta))

    def _exchange_of(  # type: ignore[override]
        self, commits: list[SignedCommit], commit_set: CommitSet
    ) -> GroupExchange:
        assert self.seat_in is not None
        group = group_of(
            self.plan,
            plan_sha256=self.plan_sha256,
            commits_root=commit_set.root,
            peers=(signed.peer for signed in commits),
            config=self.config,
            leader=self.links.coordinator,
        )
        return GroupExchange(
            self.links, self.config, self.plan, group, self.seat_in, self._own_blob(commits)
        )

    def _own_blob(self, commits: Sequence[SignedCommit]) -> Digest | None:
        """Return what this peer brings, if its commit is in the round and it still has it."""
        for signed in commits:
            blob_id = signed.commit.blob_id
            if signed.peer == self.peer and self.links.blobs.store.has(blob_id):
                return blob_id
        return None
