"""The first half of `CreditStore` over SQL: postings, their projection, workers.

The projection `worker_totals` changes in the transaction of the posting that changes it; a
posting counts for its piece of work only when no other one says something higher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection, case, insert, select, update

from ares_coordinator.store import tables as t
from ares_coordinator.store.credit_rows import TotalsRow, WorkerRow
from ares_coordinator.store.sql_base import SqlBase, fetch_one, insert_row, to_row, to_values
from ares_p2p.domain import Posting, PostingState
from ares_p2p.errors import InternalFault
from ares_p2p.ids import Digest, PeerId

RANK = case({str(state): state.rank for state in PostingState}, value=t.postings.c.state)


def append_postings(connection: Connection, postings: Sequence[Posting]) -> int:
    """Append inside a transaction of the caller; see `CreditStore.add_postings`."""
    return sum(_append(connection, posting) for posting in postings)


def _append(connection: Connection, posting: Posting) -> bool:
    stored = fetch_one(connection, Posting, t.postings, key=posting.key)
    if stored is not None:
        if _content(stored) != _content(posting):
            raise InternalFault(f"posting {posting.key} is stored with other content")
        return False
    before = _highest(connection, posting)
    values = to_values(posting)
    del values["id"]
    connection.execute(insert(t.postings).values(**values))
    if before is None or posting.state.rank > before.state.rank:
        if before is not None:
            _add_to_totals(connection, before, -before.amount_ucredits)
        _add_to_totals(connection, posting, posting.amount_ucredits)
    return True


def _content(posting: Posting) -> Posting:
    """Return what two postings of one key must share.

    A piece of work may be voided for two reasons (its own audit, and another one that forfeits
    what was pending): the first reason stands.
    """
    void = posting.state is PostingState.VOID
    return replace(posting, id=0, at_ms=0, code="" if void else posting.code)


def _highest(connection: Connection, posting: Posting) -> Posting | None:
    c = t.postings.c
    query = (
        select(t.postings)
        .where(
            c.worker == posting.worker,
            c.kind == str(posting.kind),
            c.commit_sha256 == posting.commit_sha256,
        )
        .order_by(RANK.desc(), c.id)
        .limit(1)
    )
    row = connection.execute(query).first()
    return None if row is None else to_row(Posting, row)


def _add_to_totals(connection: Connection, posting: Posting, amount_ucredits: int) -> None:
    c, column = t.worker_totals.c, f"{posting.state}_ucredits"
    changed = connection.execute(
        update(t.worker_totals)
        .where(c.worker == posting.worker, c.kind == str(posting.kind))
        .values({column: c[column] + amount_ucredits})
    )
    if changed.rowcount == 0:
        row = TotalsRow(posting.worker, posting.kind, 0, 0, 0, 0)
        values = to_values(row) | {column: amount_ucredits}
        connection.execute(insert(t.worker_totals).values(**values))


def see_worker(connection: Connection, peer: PeerId, now_ms: int) -> None:
    """Note inside a transaction of the caller that a peer was there."""
    c = t.workers.c
    seen = case((c.last_seen_ms > now_ms, c.last_seen_ms), else_=now_ms)
    changed = connection.execute(update(t.workers).where(c.peer == peer).values(last_seen_ms=seen))
    if changed.rowcount == 0:
        row = WorkerRow(peer, now_ms, now_ms, device="", gpu=False, software="")
        insert_row(connection, t.workers, row)


class SqlCredit(SqlBase):
    """Implements `CreditStore`, but for the reports; its docstrings are there."""

    def add_postings(self, postings: Sequence[Posting]) -> int:
        with self._write() as connection:
            return append_postings(connection, postings)

    def postings(self, *, after_id: int = 0, limit: int = 1000) -> tuple[Posting, ...]:
        c = t.postings.c
        query = select(t.postings).where(c.id > after_id).order_by(c.id).limit(limit)
        with self._read() as connection:
            return tuple(to_row(Posting, row) for row in connection.execute(query))

    def posting_of(self, commit_sha256: Digest) -> Posting | None:
        query = select(t.postings).where(t.postings.c.commit_sha256 == commit_sha256)
        with self._read() as connection:
            row = connection.execute(query.order_by(RANK.desc(), t.postings.c.id).limit(1)).first()
            return None if row is None else to_row(Posting, row)

    def pending_postings(self, worker: PeerId) -> tuple[Posting, ...]:
        c, other = t.postings.c, t.postings.alias()
        decided = select(other.c.id).where(
            other.c.worker == c.worker,
            other.c.kind == c.kind,
            other.c.commit_sha256 == c.commit_sha256,
            other.c.state != str(PostingState.PENDING),
        )
        query = select(t.postings).where(
            c.worker == worker, c.state == str(PostingState.PENDING), ~decided.exists()
        )
        with self._read() as connection:
            rows = connection.execute(query.order_by(c.id))
            return tuple(to_row(Posting, row) for row in rows)

    def totals(self, worker: PeerId | None = None) -> tuple[TotalsRow, ...]:
        c = t.worker_totals.c
        query = select(t.worker_totals).order_by(c.worker, c.kind)
        if worker is not None:
            query = query.where(c.worker == worker)
        with self._read() as connection:
            return tuple(to_row(TotalsRow, row) for row in connection.execute(query))

    def touch_worker(
        self, peer: PeerId, *, now_ms: int, device: str, gpu: bool, software: str
    ) -> None:
        with self._write() as connection:
            see_worker(connection, peer, now_ms)
            connection.execute(
                update(t.workers)
                .where(t.workers.c.peer == peer)
                .values(device=device, gpu=int(gpu), software=software)
            )

    def worker(self, peer: PeerId) -> WorkerRow | None:
        with self._read() as connection:
            return fetch_one(connection, WorkerRow, t.workers, peer=peer)

    def workers(self, *, limit: int = 1000) -> tuple[WorkerRow, ...]:
        c = t.workers.c
        query = select(t.workers).order_by(c.last_seen_ms.desc(), c.peer).limit(limit)
        with self._read() as connection:
            return tuple(to_row(WorkerRow, row) for row in connection.execute(query))
