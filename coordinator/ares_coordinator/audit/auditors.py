"""Auditor peers as the queue sees them: what they reported, and what that is worth to them.

A report is never waited for beyond its deadline, nor when its auditor has gone: then our own worker
replays. A pass decides alone, unless it is drawn for a check, by a secret draw at the rate of the
auditor's own streak; work that is a forgery of ours is always replayed too, and so is whatever a
dismissed auditor had reported. Everything else than a pass is replayed in any case.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import structlog

from ares_coordinator.audit.assignments import PAGE, Assignments
from ares_coordinator.audit.reports import AuditorDue, Report
from ares_coordinator.audit.rulings import (
    Ruling,
    due_of,
    is_spot_checked,
    rule_on,
    ruling_postings,
)
from ares_coordinator.audit.verdicts import Consequences, Measures, Verdict, judge_replay
from ares_coordinator.context import RunningCycle
from ares_coordinator.ledger.postings import deciding_postings
from ares_coordinator.presence import PRESENT_FOR_MS
from ares_coordinator.store.auditor_rows import (
    PAID_RESULTS,
    AssignmentRow,
    AuditResult,
    RulingRow,
)
from ares_coordinator.store.base import Store
from ares_coordinator.store.rows import AuditRow
from ares_p2p.domain import AuditReport, Commit, Posting, PostingKind
from ares_p2p.errors import InternalFault
from ares_p2p.ids import Digest, PeerId
from ares_p2p.rounds.lottery import audit_rate
from ares_p2p.wire.codec import decode_envelope, decode_payload

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AuditorReports:
    """Implements `Reports` for one running cycle; its docstrings are there."""

    cycle: RunningCycle
    assignments: Assignments
    since_ms: int  # when this coordinator started: until it heard of everybody, nobody has gone

    async def prepare(self) -> None:
        await self.assignments.prepare()

    # --- what they reported --------------------------------------------------------------------

    def awaited(self, store: Store, cycle: int, *, now_ms: int) -> Collection[Digest]:
        found = set()
        for number in {audit.round for audit in store.pending_audits(cycle, limit=PAGE)}:
            if number not in self.assignments.planned:
                opened = store.pending_audits(cycle, number, limit=PAGE)
                found |= {audit.commit_sha256 for audit in opened}
            found |= {
                task.commit_sha256
                for task in store.assignments(cycle, number)
                if self._may_still_come(task, now_ms=now_ms) and not _is_dismissed(store, task)
            }
        return found

    def _may_still_come(self, task: AssignmentRow, *, now_ms: int) -> bool:
        if task.report_envelope is not None or task.result is not None:
            return False
        if now_ms > task.deadline_ms:
            return False
        if now_ms < self.since_ms + PRESENT_FOR_MS:
            return True
        presence = self.assignments.presence
        return presence.is_auditing(task.auditor, task.cycle, now_ms=now_ms)

    def report_on(self, store: Store, audit: AuditRow) -> Report | None:
        task = store.assignment_of(audit.commit_sha256)
        if task is None or task.report_envelope is None:
            return None
        measures = _measures(task)
        check = measures is None or self._must_replay(store, task)
        return Report(task.auditor, measures, check)

    def _must_replay(self, store: Store, task: AssignmentRow) -> bool:
        dismissed = _is_dismissed(store, task)
        decided = task.result not in (None, AuditResult.TRUSTED)
        if dismissed or decided or store.is_decoy(task.commit_sha256):
            return True
        rate = audit_rate(store.audit_streak(task.auditor))
        return is_spot_checked(self.cycle.row.secret_seed, task.commit_sha256, rate)

    # --- what that is worth --------------------------------------------------------------------

    def judged(
        self, store: Store, audit: AuditRow, verdict: Verdict, *, replayed_here: bool, at_ms: int
    ) -> Sequence[Posting]:
        task = store.assignment_of(audit.commit_sha256)
        if task is None:
            return ()
        ruling = rule_on(
            self._reported(store, task),
            verdict if replayed_here else None,
            is_decoy=store.is_decoy(task.commit_sha256),
            is_reported=task.report_envelope is not None,
        )
        consequences = Consequences.of(self.cycle.settings)
        is_caught = ruling.is_caught and not consequences.shadow
        row = RulingRow(
            task.commit_sha256, task.auditor, ruling.result, ruling.code, ruling.message
        )
        # Read before the ruling is stored: that one is no confirmation of what came before it.
        unconfirmed = store.unconfirmed_audits(task.auditor)
        if store.rule(row, dismissed_ms=at_ms if is_caught else None):
            _tell(store, task, ruling, is_caught=is_caught, at_ms=at_ms)
        if consequences.shadow:
            return ()
        return ruling_postings(
            ruling,
            task,
            pending=_pending_audits(store, task.auditor),
            unconfirmed=unconfirmed,
            clawback=consequences.clawback,
            at_ms=at_ms,
        )

    def _reported(self, store: Store, task: AssignmentRow) -> Verdict | None:
        measures = _measures(task)
        if measures is None:
            return None
        commit, cycle = _commit_of(store, task), self.cycle
        return judge_replay(measures, commit, cycle.config, calibration=cycle.calibration)

    def dues(self, store: Store, cycle: int, round_number: int) -> Sequence[AuditorDue]:
        deciding = deciding_postings(store.postings_of_round(cycle, round_number))
        shadow = Consequences.of(self.cycle.settings).shadow
        return tuple(
            due_of(
                task,
                deciding.get((task.auditor, PostingKind.AUDIT, task.commit_sha256)),
                shadow=shadow,
            )
            for task in store.assignments(cycle, round_number)
        )


def _is_dismissed(store: Store, task: AssignmentRow) -> bool:
    known = store.auditor(task.auditor)
    return known is not None and known.dismissed_ms is not None


def _pending_audits(store: Store, auditor: PeerId) -> list[Posting]:
    pending = store.pending_postings(auditor)
    return [posting for posting in pending if posting.kind is PostingKind.AUDIT]


def _measures(task: AssignmentRow) -> Measures | None:
    """Return what a report measured; None: there is none, or it says why it measured nothing."""
    if task.report_envelope is None:
        return None
    envelope = decode_envelope(task.report_envelope)
    report = decode_payload(envelope.payload_type, envelope.payload, AuditReport)
    if report.code:
        return None
    return Measures(
        tokens=report.tokens,
        rho=report.rho,
        norm_ratio=report.norm_ratio,
        cosine_drop=report.cosine_drop,
        quiet_drop=report.quiet_drop,
        profile=report.profile,
    )


def _commit_of(store: Store, task: AssignmentRow) -> Commit:
    for row in store.commits(task.cycle, task.round):
        if row.commit_sha256 == task.commit_sha256:
            envelope = decode_envelope(row.envelope)
            return decode_payload(envelope.payload_type, envelope.payload, Commit)
    raise InternalFault(f"a task over commit {task.commit_sha256.hex()[:12]} without it")


def _tell(
    store: Store, task: AssignmentRow, ruling: Ruling, *, is_caught: bool, at_ms: int
) -> None:
    """Say what an operator may want to know: overruled reports, and who was dismissed."""
    if ruling.result in PAID_RESULTS:
        return
    facts = {"peer": task.auditor, "round": task.round, "reason": ruling.message}
    log.warning("audit_report_overruled", result=ruling.result.value, **facts)
    if is_caught:
        store.add_event("auditor-dismissed", json.dumps(facts), now_ms=at_ms)
