"""Audits as they fall due: replay, verdict, postings, settlement of the round.

Every accepted contribution is replayed (drawing lots comes with a longer history). A round is
settled when all its audits have verdicts; then its settlement is signed and published, so that
each volunteer reads what the round paid and why. Nothing here delays a round, and a restart finds
the open audits in the database.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import structlog

from ares_coordinator.audit.client import ComputeWorker
from ares_coordinator.context import RunningCycle
from ares_coordinator.herald import Herald, payload_of, stored_record
from ares_coordinator.ledger.postings import forfeit_postings, verdict_posting
from ares_coordinator.store.rows import AuditRow, CommitRow, ContributionRow, VerdictRow
from ares_coordinator.store.thread import StoreThread
from ares_p2p.clock import Clock
from ares_p2p.domain import (
    AuditOutcome,
    Commit,
    PostingState,
    RoundPlan,
    RoundSettlement,
    SettlementEntry,
)
from ares_p2p.errors import AresError, AuditFailed, AuditVoid, InternalFault, NetworkFault
from ares_p2p.ids import Digest
from ares_p2p.network.blobs import Blobs
from ares_p2p.wire.codec import decode_envelope, decode_payload

IDLE_S = 0.5
MAX_FAILURES = 3
MAX_MESSAGE_CHARS = 200
KEPT_ROUNDS = 3  # snapshots and contributions that late joiners may still ask for

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an audit says, and the numbers behind it; None when nothing could be compared."""

    outcome: AuditOutcome
    code: str
    message: str
    rho: float | None = None
    norm_ratio: float | None = None
    cosine_drop: float | None = None


@dataclass(slots=True)
class AuditQueue:
    """Works through the audits of one cycle. One task runs `run`."""

    cycle: RunningCycle
    herald: Herald
    db: StoreThread
    blobs: Blobs
    worker: ComputeWorker
    clock: Clock
    _settled: set[int] = field(default_factory=set)
    _failures: dict[Digest, int] = field(default_factory=dict)

    async def run(self) -> None:
        """Audit and settle until cancelled."""
        while True:
            if not await self.step():
                await asyncio.sleep(IDLE_S)

    async def drain(self) -> None:
        """Return when every contribution of the cycle has a verdict and every round is settled."""
        while await self.step():
            pass

    async def step(self) -> bool:
        """Do one audit, or settle one round; False when there is nothing to do."""
        pending = await self.db.call(self.db.store.pending_audits, self.cycle.number)
        for row in await self.db.call(self.db.store.rounds, self.cycle.number):
            open_here = any(audit.round == row.round for audit in pending)
            if row.next_state_digest and not open_here and row.round not in self._settled:
                await self._settle(row.round)
                return True
        if not pending:
            return False
        await self._audit_or_void(pending[0])
        return True

    async def _audit_or_void(self, audit: AuditRow) -> None:
        """Audit; work that cannot be replayed in several tries is not paid and not punished."""
        try:
            await self._audit(audit)
        except NetworkFault:
            raise
        except AresError as fault:
            failures = self._failures.get(audit.commit_sha256, 0) + 1
            self._failures[audit.commit_sha256] = failures
            log.warning("audit_failed", peer=audit.peer, code=fault.code, why=fault.message)
            if failures < MAX_FAILURES:
                await self.clock.sleep(IDLE_S)
                return
            message = f"could not be replayed: {fault.message}"[:MAX_MESSAGE_CHARS]
            await self._record(audit, Verdict(AuditOutcome.VOID, AuditVoid.code, message))

    async def _audit(self, audit: AuditRow) -> None:
        commit, plan = await self._commit_of(audit), await self._plan_of(audit)
        answer = await self._replay(audit, commit, plan)
        verdict = _verdict(answer, commit)
        if verdict.outcome is AuditOutcome.FAIL:
            # A fail counts only when a second replay, by a fresh process, says so too.
            await self.worker.restart()
            answer = await self._replay(audit, commit, plan)
            verdict = _verdict(answer, commit)
        await self._record(audit, verdict)

    async def _record(self, audit: AuditRow, verdict: Verdict) -> None:
        """Store the verdict and what it does to the worker's credit, in one transaction."""
        now_ms = self.clock.now_ms()
        postings = [
            verdict_posting(
                await self._contribution_of(audit),
                verdict.outcome,
                code=verdict.code,
                reference_tokens_per_hour=self.cycle.config.reference_tokens_per_hour,
                at_ms=now_ms,
            )
        ]
        if verdict.outcome is AuditOutcome.FAIL:
            pending = await self.db.call(self.db.store.pending_postings, audit.peer)
            others = [item for item in pending if item.commit_sha256 != audit.commit_sha256]
            postings += forfeit_postings(others, code=verdict.code, at_ms=now_ms)
        row = VerdictRow(
            audit.commit_sha256,
            verdict.outcome,
            verdict.rho,
            verdict.norm_ratio,
            verdict.cosine_drop,
            verdict.code,
            verdict.message,
            now_ms,
        )
        await self.db.call(self.db.store.record_verdict, row, postings)
        log.info(
            "audit",
            round=audit.round,
            peer=audit.peer,
            outcome=verdict.outcome.value,
            cosine_drop=verdict.cosine_drop,
            norm_ratio=verdict.norm_ratio,
        )

    async def _replay(self, audit: AuditRow, commit: Commit, plan: RoundPlan) -> dict[str, Any]:
        return await self.worker.replay(
            state=str(self.blobs.store.path(plan.state)),
            blob=str(self.blobs.store.path(commit.blob_id)),
            plan=commit.plan_sha256.hex(),
            peer=audit.peer,
            steps=commit.steps,
            lr=plan.inner_lr,
        )

    async def _contribution_of(self, audit: AuditRow) -> ContributionRow:
        for row in await self.db.call(self.db.store.contributions, audit.cycle, audit.round):
            if row.commit_sha256 == audit.commit_sha256:
                return row
        raise InternalFault(f"an audit of {audit.commit_sha256.hex()[:12]} without contribution")

    async def _commit_of(self, audit: AuditRow) -> Commit:
        for row in await self.db.call(self.db.store.commits, audit.cycle, audit.round):
            if row.commit_sha256 == audit.commit_sha256:
                return _commit_in(row)
        raise InternalFault(f"an audit of commit {audit.commit_sha256.hex()[:12]} without it")

    async def _plan_of(self, audit: AuditRow) -> RoundPlan:
        return payload_of(await stored_record(self.db, "plan", audit.cycle, audit.round), RoundPlan)

    # --- settlement ----------------------------------------------------------------------------

    async def _settle(self, round_number: int) -> None:
        """Sign and publish what the round paid, once."""
        place = (self.cycle.number, round_number)
        record = await self.db.call(self.db.store.record, "settlement", *place)
        if record is None:
            manifest = await stored_record(self.db, "manifest", *place)
            header = await self.herald.header(
                RoundSettlement, cycle=place[0], round_number=round_number
            )
            record = self.herald.signed(
                RoundSettlement(header, manifest.payload_sha256, await self._entries(round_number))
            )
            await self.db.call(self.db.store.save_record, record)
        await self.herald.publish(record)
        self._settled.add(round_number)
        await self._let_go(round_number - KEPT_ROUNDS)

    async def _entries(self, round_number: int) -> tuple[SettlementEntry, ...]:
        entries = []
        for audit in await self.db.call(self.db.store.audits, self.cycle.number, round_number):
            totals = await self.db.call(self.db.store.totals, audit.peer)
            paid = await self.db.call(self.db.store.posting_of, audit.commit_sha256)
            settled = paid is not None and paid.state is PostingState.SETTLED
            entries.append(
                SettlementEntry(
                    commit_sha256=audit.commit_sha256,
                    peer=audit.peer,
                    outcome=audit.outcome or AuditOutcome.VOID,
                    code=audit.code,
                    message=audit.message,
                    reward_ucredits=paid.amount_ucredits if paid and settled else 0,
                    balance_ucredits=sum(row.settled_ucredits for row in totals),
                )
            )
        return tuple(entries)

    async def _let_go(self, round_number: int) -> None:
        """Delete the contributions and the state of a settled round that nobody needs any more."""
        if round_number < 0 or round_number not in self._settled:
            return
        for row in await self.db.call(self.db.store.rounds, self.cycle.number):
            if row.round == round_number and row.round > 0:
                self.blobs.store.delete(row.state_digest)
        for commit in await self.db.call(self.db.store.commits, self.cycle.number, round_number):
            self.blobs.store.delete(_commit_in(commit).blob_id)


def _commit_in(row: CommitRow) -> Commit:
    envelope = decode_envelope(row.envelope)
    return decode_payload(envelope.payload_type, envelope.payload, Commit)


def _verdict(answer: dict[str, Any], commit: Commit) -> Verdict:
    """Return what a replay's answer means."""
    measures = (answer["rho"], answer["norm_ratio"], answer["cosine_drop"])
    outcome = AuditOutcome(str(answer["outcome"]))
    rho, norm_ratio, cosine_drop = measures
    measured = f"cosine drop {cosine_drop:.4f}, norm ratio {norm_ratio:.3f}, rho {rho:.3f}"
    if commit.tokens != answer["tokens"]:
        text = f"claims {commit.tokens} tokens, the assignment has {answer['tokens']}"
        return Verdict(AuditOutcome.FAIL, AuditFailed.code, text, *measures)
    if outcome is AuditOutcome.FAIL:
        text = f"the replay gives another update: {measured}"
        return Verdict(outcome, AuditFailed.code, text, *measures)
    if outcome is AuditOutcome.VOID:
        text = f"the replay is neither close nor far: {measured}"
        return Verdict(outcome, AuditVoid.code, text, *measures)
    return Verdict(outcome, "", "", *measures)
