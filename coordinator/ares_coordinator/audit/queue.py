"""Audits as they fall due: replays, verdicts, and the settlement of rounds.

The lottery drew what is audited when the round was finished; the open audits are rows of the
database, so a restart finds them. An auditor peer's report comes first where one is awaited; our
own worker replays the rest, and whatever such a report does not pass. A fail counts when two
independent replays say so. Rounds are settled in their order: a round waits for its audits, for
the round before it and for the holding time.

Nothing here delays a round: one audit at a time, in a process of low priority, and the queue is
read from the database a page at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

import structlog

from ares_coordinator.audit.client import ComputeWorker, WorkerNotReady
from ares_coordinator.audit.reports import NoReports, Report, Reports
from ares_coordinator.audit.settlement import Headers, settle_round
from ares_coordinator.audit.verdicts import (
    NOBODY,
    Consequences,
    Measures,
    Verdict,
    judge_replay,
    not_audited,
    not_comparable,
    record_verdict,
)
from ares_coordinator.context import RunningCycle
from ares_coordinator.failpoints import failpoint
from ares_coordinator.herald import Herald, payload_of, stored_record
from ares_coordinator.store.base import Store
from ares_coordinator.store.rows import AuditRow, CommitRow, RoundRow, RoundState
from ares_coordinator.store.thread import StoreThread
from ares_p2p.clock import Clock
from ares_p2p.domain import (
    NO_PAGE,
    AuditOutcome,
    Commit,
    LedgerHead,
    RoundManifest,
    RoundPlan,
    RoundSettlement,
)
from ares_p2p.errors import AresError, InternalFault, NetworkFault, StaleSequence
from ares_p2p.ids import Digest
from ares_p2p.network.blobs import Blobs
from ares_p2p.wire.codec import decode_envelope, decode_payload, kind_of

IDLE_S = 0.5
MAX_FAILURES = 3
LAG_EVERY_MS = 60_000  # how often it is told that audits wait
KEPT_ROUNDS = 3  # snapshots and contributions that late joiners may still ask for
PAGES_KEPT_CYCLES = 2  # pages of the ledger of this cycle and the one before stay on the disk
PAGE = 100  # open audits looked at in a step

SETTLEMENT, HEAD = kind_of(RoundSettlement), kind_of(LedgerHead)

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class AuditQueue:
    """Works through the audits of one cycle. One task runs `run`."""

    cycle: RunningCycle
    herald: Herald
    db: StoreThread
    blobs: Blobs
    worker: ComputeWorker
    clock: Clock
    reports: Reports = field(default_factory=NoReports)
    _to_announce: list[int] | None = None  # settled rounds, oldest first; None: after a start
    _failures: dict[Digest, int] = field(default_factory=dict)
    _lag_told_ms: int = 0

    async def run(self) -> None:
        """Audit and settle until cancelled."""
        self._to_announce = None  # whoever worked before may have ended in between
        while True:
            if not await self.step():
                await self.clock.sleep(IDLE_S)

    async def drain(self) -> None:
        """Return when every audit of the cycle has a verdict and every round is settled."""
        self._to_announce = None
        while not await self._is_done():
            if not await self.step():  # reports are awaited
                await self.clock.sleep(IDLE_S)

    async def step(self) -> bool:
        """Announce or settle one round, or do one audit; False when nothing can be done now."""
        await self._tell_lag()
        await self.reports.prepare()
        if self._to_announce is None:
            self._to_announce = await self._recently_settled()
            await self._drop_old_pages()
        if self._to_announce:
            await self._announce(self._to_announce[0])
            del self._to_announce[0]
            return True
        due = await self.db.call(self._next_to_settle, self.db.store)
        if due is not None:
            await self._settle(due)
            return True
        audit = await self.db.call(self._next_audit, self.db.store)
        if audit is None:
            return False
        await self._audit_or_void(audit)
        return True

    async def _is_done(self) -> bool:
        left = await self.db.call(self.db.store.unsettled_round, self.cycle.number)
        opened = await self.db.call(self.db.store.pending_audits, self.cycle.number, limit=1)
        return left is None and not opened and self._to_announce == []

    def _next_audit(self, store: Store) -> AuditRow | None:
        """Return the oldest open audit that no auditor has time for any more."""
        now_ms = self.clock.now_ms()
        awaited = self.reports.awaited(store, self.cycle.number, now_ms=now_ms)
        opened = store.pending_audits(self.cycle.number, limit=PAGE + len(awaited))
        return next((row for row in opened if row.commit_sha256 not in awaited), None)

    async def _tell_lag(self) -> None:
        now_ms = self.clock.now_ms()
        if now_ms - self._lag_told_ms < LAG_EVERY_MS:
            return
        self._lag_told_ms = now_ms
        backlog = await self.db.call(self.db.store.audit_backlog)
        if backlog.oldest_ms is not None:
            lag_s = max(0, now_ms - backlog.oldest_ms) // 1000
            log.info("audits_open", open=backlog.open, oldest_s=lag_s)

    # --- audits --------------------------------------------------------------------------------

    async def _audit_or_void(self, audit: AuditRow) -> None:
        """Audit; work that cannot be replayed in several tries is not paid and not punished."""
        try:
            await self._audit(audit)
        except (NetworkFault, WorkerNotReady):
            raise  # that says nothing about the work
        except AresError as fault:
            failures = self._failures.get(audit.commit_sha256, 0) + 1
            self._failures[audit.commit_sha256] = failures
            log.warning("audit_failed", peer=audit.peer, code=fault.code, why=fault.message)
            if failures < MAX_FAILURES:
                await self.clock.sleep(IDLE_S)
                return
            await self._record(audit, not_comparable(fault.message), report=None, own=True)
        self._failures.pop(audit.commit_sha256, None)

    async def _audit(self, audit: AuditRow) -> None:
        if not self.cycle.is_audited:
            await self._record(audit, not_audited(), report=None, own=True)
            return
        commit, plan = await self._commit_of(audit), await self._plan_of(audit)
        report = await self.db.call(self.reports.report_on, self.db.store, audit)
        reported = None
        if report is not None and report.measures is not None:
            reported = self._judged(report.measures, commit)
            if reported.outcome is AuditOutcome.PASS and not report.check:
                await self._record(audit, reported, report=report, own=False)
                return
        verdict = await self._replayed(audit, commit, plan)
        failed_twice = reported is not None and reported.outcome is AuditOutcome.FAIL
        if verdict.outcome is AuditOutcome.FAIL and not failed_twice:
            # A fail counts only when a second replay, by a fresh process, says so too.
            await self.worker.restart()
            verdict = await self._replayed(audit, commit, plan)
        agreed = report if reported is not None and reported.outcome is verdict.outcome else None
        await self._record(audit, verdict, report=agreed, own=True)

    async def _replayed(self, audit: AuditRow, commit: Commit, plan: RoundPlan) -> Verdict:
        if not (self.blobs.store.has(plan.state) and self.blobs.store.has(commit.blob_id)):
            raise InternalFault("the coordinator does not hold the contribution any more")
        answer = await self.worker.replay(
            state=str(self.blobs.store.path(plan.state)),
            blob=str(self.blobs.store.path(commit.blob_id)),
            plan=commit.plan_sha256.hex(),
            peer=audit.peer,
            steps=commit.steps,
            lr=plan.inner_lr,
        )
        measures = Measures(
            tokens=answer["tokens"],
            rho=answer["rho"],
            norm_ratio=answer["norm_ratio"],
            cosine_drop=answer["cosine_drop"],
            quiet_drop=answer.get("quiet_drop"),
            profile=answer.get("profile", ""),
        )
        return self._judged(measures, commit)

    def _judged(self, measures: Measures, commit: Commit) -> Verdict:
        cycle = self.cycle
        return judge_replay(measures, commit, cycle.config, calibration=cycle.calibration)

    async def _record(
        self, audit: AuditRow, verdict: Verdict, *, report: Report | None, own: bool
    ) -> None:
        """Store the verdict and what it does to anybody's credit, in one transaction.

        Args:
            report: the one that the verdict agrees with.
            own: the verdict rests on our own replay.
        """
        failpoint("audit")
        at_ms = self.clock.now_ms()
        consequences = Consequences.of(self.cycle.settings)

        def record(store: Store) -> bool:
            pay = self.reports.judged(store, audit, verdict, replayed_here=own, at_ms=at_ms)
            return record_verdict(
                store,
                audit,
                verdict,
                consequences=consequences,
                auditor=NOBODY if report is None else report.auditor,
                postings=pay,
                at_ms=at_ms,
            )

        await self.db.call(record, self.db.store)
        failpoint("verdict")
        log.info(
            "audit",
            round=audit.round,
            peer=audit.peer,
            outcome=verdict.outcome.value,
            shadow=consequences.shadow,
            why=verdict.message,
        )

    async def _commit_of(self, audit: AuditRow) -> Commit:
        for row in await self.db.call(self.db.store.commits, audit.cycle, audit.round):
            if row.commit_sha256 == audit.commit_sha256:
                return _commit_in(row)
        raise InternalFault(f"an audit of commit {audit.commit_sha256.hex()[:12]} without it")

    async def _plan_of(self, audit: AuditRow) -> RoundPlan:
        return payload_of(await stored_record(self.db, "plan", audit.cycle, audit.round), RoundPlan)

    # --- settlement ----------------------------------------------------------------------------

    def _next_to_settle(self, store: Store) -> RoundRow | None:
        """Return the oldest unsettled round when nothing holds it back any more."""
        row = store.unsettled_round(self.cycle.number)
        if row is None:
            return None
        opened = store.pending_audits(self.cycle.number, limit=1)
        if opened and opened[0].round <= row.round:
            return None
        latest = store.latest_round(self.cycle.number)
        assert latest is not None
        done = latest.round + (latest.state is RoundState.AGGREGATED)  # rounds
        held_until = row.round + 1 + self.cycle.settings.credit.hold_rounds
        return row if done >= min(held_until, self.cycle.config.rounds) else None

    async def _settle(self, row: RoundRow) -> None:
        """Settle a round, in one transaction."""
        place = (row.cycle, row.round)
        manifest = await stored_record(self.db, "manifest", *place)
        headers = Headers(
            settlement=await self.herald.header(
                RoundSettlement, cycle=row.cycle, round_number=row.round
            ),
            head=await self.herald.header(LedgerHead, cycle=row.cycle, round_number=row.round),
        )
        sealed = await self.db.call(
            settle_round,
            self.db.store,
            *place,
            herald=self.herald,
            headers=headers,
            manifest_sha256=manifest.payload_sha256,
            reports=self.reports,
            at_ms=self.clock.now_ms(),
        )
        failpoint(f"settle-{row.round}")
        assert self._to_announce is not None
        self._to_announce.append(row.round)
        log.info("round_settled", round=row.round, page=sealed.page.hex()[:12])

    async def _recently_settled(self) -> list[int]:
        """Return the last rounds with a settlement: a kill may have come before their news."""
        found: list[int] = []
        for row in reversed(await self.db.call(self.db.store.rounds, self.cycle.number)):
            record = await self.db.call(
                self.db.store.record, SETTLEMENT, self.cycle.number, row.round
            )
            if record is not None:
                found.append(row.round)
            if len(found) == KEPT_ROUNDS:
                break
        return found[::-1]

    async def _announce(self, round_number: int) -> None:
        """Serve the page of a settled round, publish head and settlement, let old files go."""
        place = (self.cycle.number, round_number)
        settlement = await stored_record(self.db, SETTLEMENT, *place)
        page = payload_of(settlement, RoundSettlement).page
        if page != NO_PAGE:
            head = await stored_record(self.db, HEAD, *place)
            if not self.blobs.store.has(page):
                size = payload_of(head, LedgerHead).size
                data = await self.db.call(self.db.store.page_bytes, size)
                await asyncio.to_thread(self.blobs.store.put, data)
            failpoint(f"settle-{round_number}-page")
            with contextlib.suppress(StaleSequence):  # a newer head lies there already
                await self.herald.publish(head)
        await self.herald.publish(settlement)
        await self._let_go(round_number - KEPT_ROUNDS)

    async def _let_go(self, round_number: int) -> None:
        """Delete the contributions, sum and state of a settled round that nobody needs any more.

        Its page of the ledger stays: a late peer wants the proof of its credit.
        """
        for row in await self.db.call(self.db.store.rounds, self.cycle.number):
            if row.round == round_number and row.round > 0:
                self.blobs.store.delete(row.state_digest)
        for commit in await self.db.call(self.db.store.commits, self.cycle.number, round_number):
            self.blobs.store.delete(_commit_in(commit).blob_id)
        record = await self.db.call(
            self.db.store.record, "manifest", self.cycle.number, round_number
        )
        if record is not None:
            for part in payload_of(record, RoundManifest).parts:
                self.blobs.store.delete(part.blob_id)

    async def _drop_old_pages(self) -> None:
        """Delete the ledger pages of a cycle that ended long ago; the database keeps the rows."""
        cycle = self.cycle.number - PAGES_KEPT_CYCLES
        for row in await self.db.call(self.db.store.rounds, cycle):
            record = await self.db.call(self.db.store.record, SETTLEMENT, cycle, row.round)
            if record is not None:
                page = payload_of(record, RoundSettlement).page
                await asyncio.to_thread(self.blobs.store.delete, page)


def _commit_in(row: CommitRow) -> Commit:
    envelope = decode_envelope(row.envelope)
    return decode_payload(envelope.payload_type, envelope.payload, Commit)
