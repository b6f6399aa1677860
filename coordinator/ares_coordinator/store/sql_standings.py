"""The last part of `CreditStore` over SQL: what people look at, and what trust goes by."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import and_, case, func, select

from ares_coordinator.store import tables as t
from ares_coordinator.store.credit_rows import (
    ActiveWorkerRow,
    CountsRow,
    StandingRow,
    StandingsRow,
    TierCountRow,
    WorkRow,
)
from ares_coordinator.store.decay import NO_SCORE
from ares_coordinator.store.sql_base import SqlBase, fetch_one, to_row
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

    def leaderboard(
        self, limit: int, *, offset: int = 0, by_recent: bool = False
    ) -> tuple[StandingRow, ...]:
        w, c = t.workers.c, t.standings.c
        order = (c.recent_score if by_recent else c.settled_ucredits).desc()
        wanted = c.recent_score > NO_SCORE if by_recent else c.settled_ucredits > 0
        ranks = (order, c.first_seen_ms, c.worker)
        # the page first, from an index alone, then its rows and workers: what is skipped costs
        # one step each
        page = select(c.worker).where(wanted).order_by(*ranks).limit(limit).offset(offset)
        query = (
            select(
                w.peer,
                c.settled_ucredits,
                c.pending_ucredits,
                c.recent_ucredits,
                c.recent_ms,
                w.gpu_passes,
                w.first_seen_ms,
                w.last_seen_ms,
                w.display_name,
            )
            .join_from(t.standings, t.workers, w.peer == c.worker)
            .where(c.worker.in_(page))
            .order_by(*ranks)
        )
        return self._rows(StandingRow, query)

    def standing(self, worker: PeerId) -> StandingsRow | None:
        with self._read() as connection:
            return fetch_one(connection, StandingsRow, t.standings, worker=worker)

    def standings(
        self, *, after: PeerId | None = None, limit: int = 1000
    ) -> tuple[StandingsRow, ...]:
        c = t.standings.c
        query = select(t.standings).order_by(c.worker).limit(limit)
        if after is not None:
            query = query.where(c.worker > after)
        return self._rows(StandingsRow, query)

    def streaks(self, peers: Sequence[PeerId]) -> dict[PeerId, int]:
        c = t.standings.c
        with self._read() as connection:
            rows = connection.execute(select(c.worker, c.streak).where(c.worker.in_(set(peers))))
            return dict.fromkeys(peers, 0) | {row.worker: row.streak for row in rows}

    def audit_streaks(self, auditors: Sequence[PeerId]) -> dict[PeerId, int]:
        c, broken = t.postings.c, t.postings.alias()
        last = (
            select(func.coalesce(func.max(broken.c.id), 0))
            .where(
                broken.c.worker == c.worker,
                broken.c.kind == str(PostingKind.AUDIT),
                broken.c.state.in_((str(PostingState.VOID), str(PostingState.CLAWBACK))),
            )
            .scalar_subquery()
        )
        query = (
            select(c.worker, func.count().label("streak"))
            .where(
                c.worker.in_(set(auditors)),
                c.kind == str(PostingKind.AUDIT),
                c.state == str(PostingState.SETTLED),
                c.id > last,
            )
            .group_by(c.worker)
        )
        with self._read() as connection:
            rows = connection.execute(query)
            return dict.fromkeys(auditors, 0) | {row.worker: row.streak for row in rows}

    def tier_counts(self, minimums: Sequence[int]) -> tuple[TierCountRow, ...]:
        w, c = t.workers.c, t.standings.c
        rising = sorted(minimum for minimum in set(minimums) if minimum > 0)
        found: list[TierCountRow] = []
        with self._read() as connection:
            everybody = connection.execute(select(func.count()).select_from(t.workers)).scalar_one()
            if rising:
                whens = [(c.settled_ucredits >= minimum, minimum) for minimum in reversed(rising)]
                minimum = case(*whens, else_=0).label("minimum_ucredits")
                audited = case((w.gpu_passes > 0, 1), else_=0).label("audited_gpu")
                query = (
                    select(minimum, audited, func.count().label("workers"))
                    .join_from(t.standings, t.workers, w.peer == c.worker)
                    .where(c.settled_ucredits >= rising[0])  # from an index: few have so much
                    .group_by(minimum, audited)
                )
                found += [to_row(TierCountRow, row) for row in connection.execute(query)]
        rest = everybody - sum(row.workers for row in found)
        return (TierCountRow(0, audited_gpu=False, workers=rest), *found)

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
