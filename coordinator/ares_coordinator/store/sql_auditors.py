"""`AuditorStore` over SQL: tasks of auditor peers, their reports, who may audit, and decoys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, insert, or_, select, update

from ares_coordinator.store import tables as t
from ares_coordinator.store.auditor_rows import (
    AssignmentRow,
    AuditorRow,
    AuditResult,
    DecoyRow,
    ReportResult,
    RulingRow,
    TallyRow,
)
from ares_coordinator.store.rows import RecordRow
from ares_coordinator.store.sql_base import SqlBase, fetch_one, insert_row, to_row, update_row
from ares_coordinator.store.sql_credit import RANK, append_postings
from ares_coordinator.store.sql_cycles import save_records
from ares_p2p.domain import Posting, PostingKind, PostingState
from ares_p2p.errors import Equivocation, InternalFault, ReportLate
from ares_p2p.ids import Digest, PeerId


def _paid_for(auditor: PeerId, *states: PostingState) -> ColumnElement[bool]:
    c = t.postings.c
    return and_(
        c.worker == auditor,
        c.kind == str(PostingKind.AUDIT),
        c.state.in_([str(state) for state in states]),
    )


def _save_auditor(connection: Connection, peer: PeerId, values: dict[str, Any]) -> None:
    known = update(t.auditors).where(t.auditors.c.peer == peer).values(**values)
    if connection.execute(known).rowcount == 0:
        connection.execute(insert(t.auditors).values(**{"message": "", "peer": peer, **values}))


class SqlAuditors(SqlBase):
    """Implements `AuditorStore`; its docstrings are there."""

    # --- tasks ---------------------------------------------------------------------------------

    def assign_audits(self, plan: RecordRow, tasks: Sequence[AssignmentRow]) -> bool:
        place = {"kind": plan.kind, "cycle": plan.cycle, "round": plan.round, "peer": plan.peer}
        with self._write() as connection:
            if fetch_one(connection, RecordRow, t.records, **place) is not None:
                return False
            save_records(connection, (plan,))
            for task in tasks:
                insert_row(connection, t.audit_assignments, task)
            return True

    def assignments(self, cycle: int, round_number: int) -> tuple[AssignmentRow, ...]:
        return self._of_round(
            AssignmentRow, t.audit_assignments, cycle, round_number, order="commit_sha256"
        )

    def assignment_of(self, commit_sha256: Digest) -> AssignmentRow | None:
        with self._read() as connection:
            key = {"commit_sha256": commit_sha256}
            return fetch_one(connection, AssignmentRow, t.audit_assignments, **key)

    def newest_assignments(self, auditor: PeerId, limit: int) -> tuple[AssignmentRow, ...]:
        c = t.audit_assignments.c
        query = select(t.audit_assignments).where(c.auditor == auditor, c.result.is_not(None))
        order = (c.deadline_ms.desc(), c.commit_sha256)
        return self._rows(AssignmentRow, query.order_by(*order).limit(limit))

    def audit_tallies(self) -> tuple[TallyRow, ...]:
        c = t.audit_assignments.c
        query = select(c.auditor, c.result, func.count().label("tasks"))
        query = query.group_by(c.auditor, c.result).order_by(c.auditor, c.result)
        with self._read() as connection:
            return tuple(to_row(TallyRow, row) for row in connection.execute(query))

    def take_report(
        self,
        commit_sha256: Digest,
        auditor: PeerId,
        *,
        envelope: bytes,
        received_ms: int,
        postings: Sequence[Posting],
    ) -> ReportResult:
        key = {"commit_sha256": commit_sha256, "auditor": auditor}
        with self._write() as connection:
            task = fetch_one(connection, AssignmentRow, t.audit_assignments, **key)
            if task is None:
                raise InternalFault(f"no audit of {commit_sha256.hex()[:12]} by {auditor}")
            if task.report_envelope == envelope:
                return ReportResult.DUPLICATE
            if task.report_envelope is not None:
                raise Equivocation("a second, different report of the same audit")
            if task.result is not None:
                raise ReportLate("the work was replayed without this report meanwhile")
            values = {"report_envelope": envelope, "received_ms": received_ms}
            update_row(connection, t.audit_assignments, key, values)
            append_postings(connection, postings)
            return ReportResult.NEW

    def rule(
        self,
        ruling: RulingRow,
        postings: Sequence[Posting] = (),
        *,
        dismissed_ms: int | None = None,
    ) -> bool:
        key = {"commit_sha256": ruling.commit_sha256, "auditor": ruling.auditor}
        with self._write() as connection:
            task = fetch_one(connection, AssignmentRow, t.audit_assignments, **key)
            if task is None:
                raise InternalFault(
                    f"no audit of {ruling.commit_sha256.hex()[:12]} by {ruling.auditor}"
                )
            if task.result is not None:
                return False
            values = {"result": ruling.result, "code": ruling.code, "message": ruling.message}
            update_row(connection, t.audit_assignments, key, values)
            append_postings(connection, postings)
            if dismissed_ms is not None:
                changed = {"dismissed_ms": dismissed_ms, "message": ruling.message}
                _save_auditor(connection, ruling.auditor, changed)
            return True

    # --- pay -----------------------------------------------------------------------------------

    def audit_streak(self, auditor: PeerId) -> int:
        c = t.postings.c
        unpaid = _paid_for(auditor, PostingState.VOID, PostingState.CLAWBACK)
        last = select(func.coalesce(func.max(c.id), 0)).where(unpaid).scalar_subquery()
        query = select(func.count()).where(_paid_for(auditor, PostingState.SETTLED), c.id > last)
        with self._read() as connection:
            return int(connection.execute(query).scalar_one())

    def unconfirmed_audits(self, auditor: PeerId) -> tuple[Posting, ...]:
        c, task, higher = t.postings.c, t.audit_assignments.c, t.postings.alias()
        confirmed = (
            select(func.coalesce(func.max(task.received_ms), -1))
            .where(task.auditor == auditor, task.result == str(AuditResult.AGREED))
            .scalar_subquery()
        )
        taken_back = select(higher.c.id).where(
            higher.c.worker == c.worker,
            higher.c.kind == c.kind,
            higher.c.commit_sha256 == c.commit_sha256,
            higher.c.state.in_([str(PostingState.VOID), str(PostingState.CLAWBACK)]),
        )
        query = (
            select(t.postings)
            .join(
                t.audit_assignments,
                and_(task.commit_sha256 == c.commit_sha256, task.auditor == c.worker),
            )
            .where(
                _paid_for(auditor, PostingState.SETTLED),
                or_(task.result.is_(None), task.result != str(AuditResult.AGREED)),
                task.received_ms > confirmed,
                ~taken_back.exists(),
            )
        )
        return self._rows(Posting, query.order_by(c.id))

    def audit_state(self, commit_sha256: Digest, auditor: PeerId) -> PostingState | None:
        query = select(t.postings).where(
            _paid_for(auditor, *PostingState), t.postings.c.commit_sha256 == commit_sha256
        )
        with self._read() as connection:
            row = connection.execute(query.order_by(RANK.desc()).limit(1)).first()
            return None if row is None else to_row(Posting, row).state

    # --- who may audit -------------------------------------------------------------------------

    def auditor(self, peer: PeerId) -> AuditorRow | None:
        with self._read() as connection:
            return fetch_one(connection, AuditorRow, t.auditors, peer=peer)

    def auditors(self) -> tuple[AuditorRow, ...]:
        return self._rows(AuditorRow, select(t.auditors).order_by(t.auditors.c.peer))

    def name_auditor(self, peer: PeerId, *, now_ms: int) -> None:
        with self._write() as connection:
            changed = {"named_ms": now_ms, "dismissed_ms": None, "message": ""}
            _save_auditor(connection, peer, changed)

    # --- decoys --------------------------------------------------------------------------------

    def begin_decoy(self, decoy: DecoyRow) -> DecoyRow:
        place = {"cycle": decoy.cycle, "round": decoy.round}
        with self._write() as connection:
            stored = fetch_one(connection, DecoyRow, t.decoys, **place)
            if stored is None:
                insert_row(connection, t.decoys, decoy)
            return stored or decoy

    def commit_decoy(self, cycle: int, round_number: int, *, commit_sha256: Digest) -> None:
        with self._write() as connection:
            place = {"cycle": cycle, "round": round_number}
            update_row(connection, t.decoys, place, {"commit_sha256": commit_sha256})

    def decoy(self, cycle: int, round_number: int) -> DecoyRow | None:
        with self._read() as connection:
            return fetch_one(connection, DecoyRow, t.decoys, cycle=cycle, round=round_number)

    def is_decoy(self, commit_sha256: Digest) -> bool:
        query = select(t.decoys.c.peer).where(t.decoys.c.commit_sha256 == commit_sha256)
        with self._read() as connection:
            return connection.execute(query).first() is not None
