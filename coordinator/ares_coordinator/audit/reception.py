"""Where auditors hand in their reports: checked, stored with their pending pay, receipted.

A report is in the database before its receipt is signed away; the same bytes a second time get a
receipt again, because the first one may have been lost on the way. Whatever is refused is kept
with its reason, under who sent it.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from ares_coordinator.audit.assignments import AUDIT_PLAN
from ares_coordinator.audit.rulings import pending_pay
from ares_coordinator.context import RunningCycle
from ares_coordinator.herald import Herald, payload_of
from ares_coordinator.store.base import Store
from ares_coordinator.store.thread import StoreThread
from ares_p2p.clock import Clock
from ares_p2p.crypto.envelope import Envelope
from ares_p2p.domain import AuditPlan, AuditReport
from ares_p2p.errors import NotAnAuditor, PeerFault, WrongSigner
from ares_p2p.ids import PeerId
from ares_p2p.rounds.audits import check_report
from ares_p2p.wire.codec import encode_envelope, open_envelope

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reception:
    """Takes the reports of one running cycle."""

    cycle: RunningCycle
    herald: Herald
    db: StoreThread
    clock: Clock

    async def take(self, envelope: Envelope, remote: PeerId) -> Envelope:
        """Return the receipt of a report once it is stored.

        Raises: PeerFault: why it is refused.
        """
        number: int | None = None
        try:
            report = open_envelope(envelope, AuditReport, network_id=self.herald.network_id)
            if report.header.cycle == self.cycle.number:
                number = report.header.round
            if envelope.signer != remote:
                raise WrongSigner(f"a report of {envelope.signer}, sent by another peer")
            await self.db.call(self._store, self.db.store, report, envelope)
        except PeerFault as fault:
            log.info("audit_report_refused", peer=remote, code=fault.code, reason=fault.message)
            await self.db.call(self._keep_refusal, self.db.store, remote, fault, number)
            raise
        return self.herald.receipt(envelope)

    def _store(self, store: Store, report: AuditReport, envelope: Envelope) -> None:
        """Check and store; in the store's thread, so that no verdict comes in between."""
        auditor, now_ms = envelope.signer, self.clock.now_ms()
        place = (report.header.cycle, report.header.round)
        record = store.record(AUDIT_PLAN, *place)
        if record is None or place[0] != self.cycle.number:
            raise NotAnAuditor(f"no audit was asked for in round {place[1]} of cycle {place[0]}")
        data = encode_envelope(envelope)
        task = store.assignment_of(report.commit_sha256)
        if task is not None and task.auditor == auditor and task.report_envelope == data:
            return  # our receipt was lost
        known = store.auditor(auditor)
        if known is not None and known.dismissed_ms is not None:
            raise NotAnAuditor(f"this peer may not audit any more: {known.message}")
        check_report(
            report,
            auditor=auditor,
            plan=payload_of(record, AuditPlan),
            plan_sha256=record.payload_sha256,
            max_tokens=self._max_tokens(store, report),
            now_ms=now_ms,
        )
        store.take_report(
            report.commit_sha256,
            auditor,
            envelope=data,
            received_ms=now_ms,
            postings=pending_pay(
                report,
                auditor,
                reference_tokens_per_hour=self.cycle.config.reference_tokens_per_hour,
                at_ms=now_ms,
            ),
        )
        log.info("audit_report", round=place[1], auditor=auditor, code=report.code)

    def _max_tokens(self, store: Store, report: AuditReport) -> int:
        training = self.cycle.config.training
        rows = store.contributions(report.header.cycle, report.header.round)
        steps = [row.steps for row in rows if row.commit_sha256 == report.commit_sha256]
        return training.sequences_per_step * training.sequence_length * max(steps, default=0)

    def _keep_refusal(
        self, store: Store, sender: PeerId, fault: PeerFault, number: int | None
    ) -> None:
        """Keep why a report was refused, under a round that exists."""
        latest = store.latest_round(self.cycle.number)
        if latest is None:
            return
        store.add_refusal(
            self.cycle.number,
            latest.round if number is None else min(number, latest.round),
            sender,
            code=fault.code,
            message=fault.message,
            now_ms=self.clock.now_ms(),
        )
