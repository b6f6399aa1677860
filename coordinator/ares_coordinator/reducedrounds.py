"""Rounds that the peers average in a group, on hivemind's averager; the coordinator leads it.

The same rounds as `rounds`: a plan, commits, a signed end. The commits close, those who committed
meet in a group, and the coordinator takes part with a weight of zero, so that it holds the sum
like everybody else; its next state is the signed one. It judges nothing: there are no
contributions to look at, so nothing is verified and nothing is paid, and an alarm about the
held-out loss could take nothing back.

An average is signed only if it is whole. When a reducer fails, the group is called again, and who
failed does not reduce; who does not come is left out and told so. When no average comes about at
all, the round ends without a change: no contribution of it counts.

A restart between the commits and the manifest calls the group anew: the peers ask until there is
a manifest.

Source: docs/averaging.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Set
from dataclasses import dataclass, replace

import numpy as np
import structlog

from ares_coordinator.alarm.watch import PoisonWatch
from ares_coordinator.herald import payload_of, stored_record
from ares_coordinator.judge import Judged, entry_of
from ares_coordinator.roundclock import Workload
from ares_coordinator.rounds import RoundKeeper
from ares_coordinator.store.rows import RoundRow
from ares_p2p.averaging.group import (
    Averaged,
    SeatIn,
    group_of,
    half_bytes,
    timing_of,
)
from ares_p2p.averaging.vectors import Vector
from ares_p2p.domain import CommitSet, EntryStatus, ManifestEntry, RoundManifest, RoundPlan
from ares_p2p.errors import (
    AresError,
    AverageFailed,
    GroupMissed,
    InternalFault,
)
from ares_p2p.ids import Digest, PeerId
from ares_p2p.rounds.commits import SignedCommit, check_commit_set
from ares_p2p.rounds.manifest import build_manifest
from ares_p2p.training.replica import state_after
from ares_p2p.training.state import encode_snapshot

MAX_CALLS = 3  # of a round's group
CALL_AGAIN_S = 1.0

log = structlog.get_logger(__name__)


class LossWatch(PoisonWatch):
    """Looks at the held-out loss of every round, for people; there is nothing to take out."""

    async def _judged(self, row: RoundRow, after: object, look: object) -> tuple[None, tuple[()]]:
        del row, after, look
        return None, ()


@dataclass(slots=True)
class ReducedKeeper(RoundKeeper):
    """The rounds of one cycle that is averaged in groups.

    Args:
        seat_in: takes a seat in a group, over the node's P2P.
    """

    seat_in: SeatIn | None = None

    # --- how long, and how much ----------------------------------------------------------------

    def _exchange(self) -> int:
        return 0  # parts are hivemind's own here

    def _workload(self, parts: int) -> Workload:
        """A member sends its vector once, and about as much as a reducer, however many there are."""
        one = half_bytes(self.cycle.config.parameters)
        return replace(RoundKeeper._workload(self, parts), sent_bytes=2 * one)

    # --- the end of a round --------------------------------------------------------------------

    async def _finish(self, row: RoundRow) -> None:
        plan = await self._plan_of(row)
        record = await stored_record(self.db, "commits", row.cycle, row.round)
        closed = payload_of(record, CommitSet)
        commits = check_commit_set(
            closed,
            plan=plan,
            plan_sha256=row.plan_sha256,
            config=self.cycle.config,
            examples=self.cycle.examples,
        )
        found = await self._average(plan, closed, commits)
        judged = judge_members(commits, found)
        total = None if found is None else found.total
        following = await asyncio.to_thread(self._advance, plan.state, total)
        manifest = build_manifest(
            header=await self.herald.header(RoundManifest, cycle=row.cycle, round_number=row.round),
            plan_sha256=row.plan_sha256,
            commit_set_sha256=record.payload_sha256,
            entries=[item.entry for item in judged],
            next_state=following,
            next_state_size_bytes=self.blobs.store.size(following),
            final=row.round + 1 == self.cycle.config.rounds,
        )
        await self._store_finished(row, judged, self.herald.signed(manifest), following)

    async def _average(
        self, plan: RoundPlan, commits: CommitSet, signed_commits: list[SignedCommit]
    ) -> Averaged | None:
        """Return a whole average of the peers that committed; None when none came about."""
        if self.seat_in is None:
            raise InternalFault("the cycle is averaged in groups, and there is no node for it")
        group = group_of(
            plan,
            plan_sha256=commits.plan_sha256,
            commits_root=commits.root,
            peers=(signed.peer for signed in signed_commits),
            config=self.cycle.config,
            leader=self.herald.identity.peer_id,
        )
        nothing = np.zeros(group.size, dtype=np.float32)
        timing = timing_of(plan)
        failed: set[PeerId] = set()
        async with self.seat_in(group, timing) as seat:
            until_ms = self.clock.now_ms() + int(timing.reduce_s * 1000)
            for call in range(MAX_CALLS):
                left_s = max(timing.gather_s, (until_ms - self.clock.now_ms()) / 1000)
                try:
                    found = await seat.average(nothing, within_s=left_s, barred=failed)
                except (GroupMissed, AverageFailed) as fault:
                    log.warning("no_average", call=call, code=fault.code, why=fault.message)
                    await self.clock.sleep(CALL_AGAIN_S)
                    continue
                if found.is_complete:
                    return found
                failed |= found.failed
                log.warning("average_incomplete", call=call, missing=found.missing)
        return None

    def _advance(self, state: Digest, total: Vector | None) -> Digest:
        following = state_after(self._load_state(state), total, self.cycle.config.training)
        return self.blobs.store.put(encode_snapshot(following))


def judge_members(commits: list[SignedCommit], found: Averaged | None) -> list[Judged]:
    """Return what the manifest says of each commit: it counted as much as any other, or not.

    A member whose parts another reducer refused counts here: only that one knows.
    """
    used: Set[PeerId] = set() if found is None else found.peers - found.refused.keys()
    return [Judged(signed, _entry(signed, found, used), None) for signed in commits]


def _entry(signed: SignedCommit, found: Averaged | None, used: Set[PeerId]) -> ManifestEntry:
    if signed.peer in used:
        return entry_of(signed, 1.0 / len(used), EntryStatus.ACCEPTED, "", "")
    fault: AresError = GroupMissed("did not come to the group that averaged the round")
    if found is None:
        fault = AverageFailed("no average of the round came about")
    elif signed.peer in found.refused:
        fault = found.refused[signed.peer]
    return entry_of(signed, 0.0, EntryStatus.REFUSED, fault.code, fault.message)
