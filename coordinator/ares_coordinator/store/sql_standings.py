"""The second half of `CreditStore` over SQL: what people look at."""

from __future__ import annotations

from sqlalchemy import and_, case, func, select

from ares_coordinator.store import tables as t
from ares_coordinator.store.credit_rows import ActiveWorkerRow, CountsRow, StandingRow, WorkRow
from ares_coordinator.store.sql_base import SqlBase, to_row
from ares_coordinator.store.sql_credit import RANK
from ares_p2p.domain import EntryStatus, PostingKind, PostingState
from ares_p2p.ids import PeerId


class SqlStandings(SqlBase):
    """Implements the reports of `CreditStore`; its docstrings are there."""

    def active_workers(self, limit: int) -> tuple[ActiveWorkerRow, ...]:
        w, c, work = t.workers.c, t.commits.c, t.contributions.c
        used = (
            select(func.count())
            .join_from(t.commits, t.contributions, work.commit_sha256 == c.commit_sha256)
            .where(c.peer == w.peer, work.status != str(EntryStatus.REFUSED))
            .scalar_subquery()
            .label("tasks_completed")
        )
        query = select(w.peer, w.gpu, w.last_seen_ms, used)
        query = query.order_by(w.last_seen_ms.desc(), w.peer).limit(limit)
        with self._read() as connection:
            return tuple(to_row(ActiveWorkerRow, row) for row in connection.execute(query))

    def counts(self) -> CountsRow:
        workers = select(func.count(), func.coalesce(func.sum(t.workers.c.gpu), 0))
        used = select(func.count()).where(t.contributions.c.status != str(EntryStatus.REFUSED))
        with self._read() as connection:
            row = connection.execute(workers.select_from(t.workers)).one()
            return CountsRow(int(row[0]), int(row[1]), connection.execute(used).scalar_one())

    def leaderboard(self, limit: int) -> tuple[StandingRow, ...]:
        w, c = t.workers.c, t.worker_totals.c
        settled = func.sum(c.settled_ucredits)
        query = (
            select(
                w.peer,
                settled.label("settled_ucredits"),
                func.sum(c.pending_ucredits).label("pending_ucredits"),
                w.gpu_passes,
                w.first_seen_ms,
                w.last_seen_ms,
                w.display_name,
            )
            .join(t.worker_totals, c.worker == w.peer)
            .group_by(w.peer)
            .having(settled > 0)
            .order_by(settled.desc(), w.first_seen_ms, w.peer)
            .limit(limit)
        )
        with self._read() as connection:
            return tuple(to_row(StandingRow, row) for row in connection.execute(query))

    def tier_inputs(self) -> tuple[tuple[int, int], ...]:
        w, c = t.workers.c, t.worker_totals.c
        settled = func.coalesce(func.sum(c.settled_ucredits), 0)
        query = (
            select(settled, w.gpu_passes)
            .join_from(t.workers, t.worker_totals, c.worker == w.peer, isouter=True)
            .group_by(w.peer)
        )
        with self._read() as connection:
            return tuple((int(row[0]), int(row[1])) for row in connection.execute(query))

    def recent_work(self, peer: PeerId, limit: int) -> tuple[WorkRow, ...]:
        c, work, a, p = t.commits.c, t.contributions.c, t.audits.c, t.postings.c
        higher = t.postings.alias()
        higher_rank = case({str(state): state.rank for state in PostingState}, value=higher.c.state)
        overridden = select(higher.c.id).where(
            higher.c.worker == p.worker,
            higher.c.kind == p.kind,
            higher.c.commit_sha256 == p.commit_sha256,
            higher_rank > RANK,
        )
        own = and_(
            p.commit_sha256 == c.commit_sha256,
            p.worker == c.peer,
            p.kind != str(PostingKind.AUDIT),
            ~overridden.exists(),
        )
        query = (
            select(
                *(c.commit_sha256, c.cycle, c.round, c.received_ms, work.status, a.outcome),
                func.coalesce(
                    *(func.nullif(column, "") for column in (p.code, a.code, work.code)), ""
                ).label("code"),
                func.coalesce(func.nullif(a.message, ""), func.nullif(work.message, ""), "").label(
                    "message"
                ),
                func.coalesce(work.steps, 0).label("steps"),
                func.coalesce(work.tokens, 0).label("tokens"),
                p.state.label("credit_state"),
                func.coalesce(p.amount_ucredits, 0).label("amount_ucredits"),
            )
            .join_from(
                t.commits,
                t.contributions,
                work.commit_sha256 == c.commit_sha256,
                isouter=True,
            )
            .outerjoin(t.audits, a.commit_sha256 == c.commit_sha256)
            .outerjoin(t.postings, own)
            .where(c.peer == peer)
            .order_by(c.cycle.desc(), c.round.desc())
            .limit(limit)
        )
        with self._read() as connection:
            return tuple(to_row(WorkRow, row) for row in connection.execute(query))

    def settled_by_kind(self) -> tuple[tuple[PostingKind, int], ...]:
        c = t.worker_totals.c
        query = select(c.kind, func.sum(c.settled_ucredits)).group_by(c.kind).order_by(c.kind)
        with self._read() as connection:
            rows = connection.execute(query)
            return tuple((PostingKind(kind), int(amount)) for kind, amount in rows)
