"""The last part of `RoundStore` over SQL: audits and their verdicts."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select, update

from ares_coordinator.store import tables as t
from ares_coordinator.store.rows import AuditRow, BacklogRow, ContributionRow, VerdictRow
from ares_coordinator.store.sql_base import SqlBase, fetch_one, to_row, to_values, update_row
from ares_coordinator.store.sql_credit import append_postings
from ares_p2p.domain import AuditOutcome, Posting
from ares_p2p.errors import InternalFault
from ares_p2p.ids import PeerId


class SqlAudits(SqlBase):
    """Implements the audits of `RoundStore`; its docstrings are there."""

    def pending_audits(
        self, cycle: int, round_number: int | None = None, *, limit: int = 100
    ) -> tuple[AuditRow, ...]:
        c = t.audits.c
        query = select(t.audits).where(c.cycle == cycle, c.outcome.is_(None))
        if round_number is not None:
            query = query.where(c.round == round_number)
        return self._rows(AuditRow, query.order_by(c.round, c.commit_sha256).limit(limit))

    def audits(self, cycle: int, round_number: int) -> tuple[AuditRow, ...]:
        return self._of_round(AuditRow, t.audits, cycle, round_number, order="commit_sha256")

    def audit_backlog(self) -> BacklogRow:
        c = t.audits.c
        query = select(func.count().label("open"), func.min(c.created_ms).label("oldest_ms"))
        with self._read() as connection:
            row = connection.execute(query.where(c.outcome.is_(None))).one()
            return to_row(BacklogRow, row)

    def failed_audit(self, peer: PeerId, *, at_ms: int) -> AuditRow | None:
        c = t.audits.c
        query = select(t.audits).where(
            c.peer == peer, c.outcome == str(AuditOutcome.FAIL), c.shadow == 0, c.done_ms <= at_ms
        )
        newest = query.order_by(c.done_ms.desc(), c.cycle.desc(), c.round.desc()).limit(1)
        return next(iter(self._rows(AuditRow, newest)), None)

    def record_verdict(self, verdict: VerdictRow, postings: Sequence[Posting]) -> bool:
        key = {"commit_sha256": verdict.commit_sha256}
        with self._write() as connection:
            audit = fetch_one(connection, AuditRow, t.audits, **key)
            work = fetch_one(connection, ContributionRow, t.contributions, **key)
            if audit is None or work is None:
                raise InternalFault(f"no audit of commit {verdict.commit_sha256.hex()[:12]}")
            if audit.outcome is not None:
                return False
            update_row(connection, t.audits, key, to_values(verdict))
            if work.gpu and verdict.outcome == AuditOutcome.PASS:
                passes = t.workers.c.gpu_passes + 1
                connection.execute(
                    update(t.workers).where(t.workers.c.peer == work.peer).values(gpu_passes=passes)
                )
            append_postings(connection, postings)
            return True
