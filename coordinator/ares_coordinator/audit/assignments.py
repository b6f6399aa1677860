"""Who is asked to replay what: the AuditPlan of each finished round.

For every drawn commit the round's seed names one of the auditors that are present. With nobody to
ask there is no plan, and our own worker replays; so a plan is signed once a round, at the first
look after the lottery, and never changed.

Who may audit: peers of a tier that may, and those that the operator named; not one that let
forged work through, until it is named again, and for a while not one that keeps missing its
deadlines. Never the author of the work; two identities of one person are not recognised.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog

from ares_coordinator.context import RunningCycle
from ares_coordinator.herald import Herald, payload_of, stored_record
from ares_coordinator.ledger.tiers import BENEFITS, LADDER
from ares_coordinator.presence import Presence
from ares_coordinator.store.auditor_rows import AssignmentRow, AuditResult
from ares_coordinator.store.base import Store
from ares_coordinator.store.rows import RecordRow
from ares_coordinator.store.thread import StoreThread
from ares_coordinator.tierbook import TierBook
from ares_p2p.clock import Clock
from ares_p2p.domain import AuditPlan, CommitSet
from ares_p2p.errors import NetworkFault, NodeDied
from ares_p2p.ids import PeerId
from ares_p2p.rounds.audits import assign_audits
from ares_p2p.wire.codec import kind_of

AUDIT_PLAN = kind_of(AuditPlan)
MISSES_TO_REST = 3  # deadlines missed in a row
REST_MS = 600_000  # without a task after that
PAGE = 1_000  # open audits looked at: more than any few rounds have

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Assignments:
    """The audit plans of one running cycle.

    Attributes:
        planned: rounds for which it is decided who is asked, if anybody.
    """

    cycle: RunningCycle
    herald: Herald
    db: StoreThread
    clock: Clock
    presence: Presence
    tiers: TierBook
    planned: set[int] = field(default_factory=set)

    async def prepare(self) -> None:
        """Publish who audits what of rounds that were finished since the last call."""
        for number in await self.db.call(self._unplanned, self.db.store):
            record = await self.db.call(self.db.store.record, AUDIT_PLAN, self.cycle.number, number)
            if record is None:
                record = await self._plan(number)
            self.planned.add(number)
            if record is not None and payload_of(record, AuditPlan).deadline_ms > self._now_ms():
                await self._publish(record)

    def _unplanned(self, store: Store) -> list[int]:
        opened = store.pending_audits(self.cycle.number, limit=PAGE)
        return sorted({audit.round for audit in opened} - self.planned)

    def _now_ms(self) -> int:
        return self.clock.now_ms()

    async def _plan(self, number: int) -> RecordRow | None:
        """Sign and store a round's plan; None when there is nothing to ask, or nobody."""
        place = (self.cycle.number, number)
        drawn = await self.db.call(self.db.store.pending_audits, *place, limit=PAGE)
        auditors = await self.qualified() if drawn else ()
        if not auditors:
            return None
        closed = await stored_record(self.db, "commits", *place)
        assignments = assign_audits(
            payload_of(closed, CommitSet).revealed_seed,
            [(audit.commit_sha256, audit.peer) for audit in drawn],
            auditors,
        )
        if not assignments:
            return None
        header = await self.herald.header(AuditPlan, cycle=place[0], round_number=number)
        deadline_ms = header.issued_ms + int(self.cycle.settings.audit.report_s * 1000)
        plan = AuditPlan(header, closed.payload_sha256, assignments, deadline_ms)
        record = self.herald.signed(plan)
        tasks = [
            AssignmentRow(item.commit_sha256, item.auditor, *place, header.issued_ms, deadline_ms)
            for item in assignments
        ]
        await self.db.call(self.db.store.assign_audits, record, tasks)
        log.info("audit_plan", round=number, tasks=len(tasks), auditors=len(auditors))
        return record

    async def _publish(self, record: RecordRow) -> None:
        try:
            await self.herald.publish(record)
        except NodeDied:
            raise
        except NetworkFault as fault:  # nobody will report then, and we replay ourselves
            log.warning("audit_plan_unpublished", round=record.round, code=fault.code)

    # --- who may audit -------------------------------------------------------------------------

    async def qualified(self) -> tuple[PeerId, ...]:
        """Return the peers that are present for this cycle as auditors, and may audit."""
        if not self.cycle.is_audited:
            return ()
        present = self.presence.auditors_of(self.cycle.number, now_ms=self._now_ms())
        return tuple([peer for peer in sorted(present) if await self._may_audit(peer)])

    async def _may_audit(self, peer: PeerId) -> bool:
        return not await self.why_not(peer) and not await self._rests(peer)

    async def why_not(self, peer: PeerId) -> str:
        """Return why a peer may not audit, in words; "" when it may."""
        if not self.cycle.is_audited:
            return "this network does not audit"
        known = await self.db.call(self.db.store.auditor, peer)
        if known is not None and known.dismissed_ms is not None:
            return f"not any more: {known.message}"
        named = known is not None and known.named_ms is not None
        if named or peer in self.cycle.settings.audit.auditors:
            return ""
        tier = await self.tiers.tier_of(peer)
        if BENEFITS[tier].may_audit:
            return ""
        lowest = next(tier for tier in LADDER if BENEFITS[tier].may_audit)
        return f"its tier is {tier}; {lowest} may, and whom the operator names"

    async def _rests(self, peer: PeerId) -> bool:
        """Whether a peer missed so many deadlines in a row that it gets no task for a while."""
        newest = await self.db.call(self.db.store.newest_assignments, peer, MISSES_TO_REST)
        known = await self.db.call(self.db.store.auditor, peer)
        named_ms = 0 if known is None or known.named_ms is None else known.named_ms
        missed = [
            task
            for task in newest
            if task.result is AuditResult.MISSED and task.assigned_ms > named_ms
        ]
        if len(missed) < MISSES_TO_REST:
            return False
        return self._now_ms() < missed[0].deadline_ms + REST_MS
