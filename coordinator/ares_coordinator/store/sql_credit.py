"""The first part of `CreditStore` over SQL: postings, their projection, workers.

Postings come in batches: a few reads for all of them, then one statement a table. The log's nodes
and the projections `worker_totals` and `standings` change in the transaction of the postings that
change them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from sqlalchemy import Connection, Table, and_, bindparam, case, insert, or_, select, update

from ares_coordinator.store import tables as t
from ares_coordinator.store.credit_rows import StandingsRow, TotalsRow, WorkerRow
from ares_coordinator.store.projection import Place, Projection, Work, new_standing, work_of
from ares_coordinator.store.sql_base import (
    SqlBase,
    batches,
    fetch_one,
    insert_all,
    insert_row,
    to_row,
    to_values,
)
from ares_coordinator.store.sql_nodes import append_leaves, log_size
from ares_p2p.crypto.merkle import leaf_hash
from ares_p2p.domain import AuditOutcome, Posting, PostingKind, PostingState
from ares_p2p.errors import InternalFault
from ares_p2p.ids import Digest, PeerId
from ares_p2p.proofs.ledger import leaf_of

RANK = case({str(state): state.rank for state in PostingState}, value=t.postings.c.state)
K = TypeVar("K")


def append_postings(connection: Connection, postings: Sequence[Posting]) -> int:
    """Append inside a transaction of the caller; see `CreditStore.add_postings`."""
    new = _unknown(connection, postings)
    if not new:
        return 0
    size = log_size(connection)
    stored = [replace(posting, id=size + at) for at, posting in enumerate(new, start=1)]
    totals = _stored_totals(connection, stored)
    standings = _stored_standings(connection, stored)
    projection = Projection(_highest(connection, stored), dict(totals), dict(standings))
    for worker, first_seen_ms in _first_seen(connection, stored, without=standings):
        projection.standings[worker] = new_standing(worker, first_seen_ms)
    insert_all(connection, t.postings, stored)
    append_leaves(connection, size, [leaf_hash(leaf_of(posting)) for posting in stored])
    projection.add_all(stored)
    _save(connection, t.worker_totals, projection.totals, before=totals)
    _save(connection, t.standings, projection.standings, before=standings)
    return len(stored)


def _unknown(connection: Connection, postings: Sequence[Posting]) -> list[Posting]:
    """Return those whose key is not stored, each key once.

    Raises: InternalFault: a key that is stored, or comes twice, with other content.
    """
    known: dict[str, Posting] = {}
    for batch in batches({posting.key for posting in postings}):
        query = select(t.postings).where(t.postings.c.key.in_(batch))
        known |= {row.key: to_row(Posting, row) for row in connection.execute(query)}
    new = []
    for posting in postings:
        stored = known.get(posting.key)
        if stored is None:
            known[posting.key] = posting
            new.append(posting)
        elif _content(stored) != _content(posting):
            raise InternalFault(f"posting {posting.key} is stored with other content")
    return new


def _content(posting: Posting) -> Posting:
    """Return what two postings of one key must share.

    A piece of work may be voided for two reasons (its own audit, and another one that forfeits
    what was pending): the first reason stands.
    """
    void = posting.state is PostingState.VOID
    return replace(posting, id=0, at_ms=0, code="" if void else posting.code)


def _highest(connection: Connection, postings: Sequence[Posting]) -> dict[Work, Posting]:
    """Return the posting that decides so far, of every piece of work that has one."""
    wanted = {work_of(posting) for posting in postings}
    found: dict[Work, Posting] = {}
    c = t.postings.c
    for batch in batches({posting.commit_sha256 for posting in postings}):
        query = select(t.postings).where(c.commit_sha256.in_(batch)).order_by(RANK, c.id.desc())
        for row in connection.execute(query):  # the last one of each is the highest
            posting = to_row(Posting, row)
            if work_of(posting) in wanted:
                found[work_of(posting)] = posting
    return found


def _stored_totals(connection: Connection, postings: Sequence[Posting]) -> dict[Place, TotalsRow]:
    found: dict[Place, TotalsRow] = {}
    for batch in batches({posting.worker for posting in postings}):
        query = select(t.worker_totals).where(t.worker_totals.c.worker.in_(batch))
        rows = (to_row(TotalsRow, row) for row in connection.execute(query))
        found |= {(row.worker, row.kind): row for row in rows}
    return found


def _stored_standings(
    connection: Connection, postings: Sequence[Posting]
) -> dict[PeerId, StandingsRow]:
    found: dict[PeerId, StandingsRow] = {}
    for batch in batches({posting.worker for posting in postings}):
        query = select(t.standings).where(t.standings.c.worker.in_(batch))
        rows = (to_row(StandingsRow, row) for row in connection.execute(query))
        found |= {row.worker: row for row in rows}
    return found


def _first_seen(
    connection: Connection, postings: Sequence[Posting], *, without: Collection[PeerId]
) -> Iterator[tuple[PeerId, int]]:
    c = t.workers.c
    for batch in batches({posting.worker for posting in postings} - set(without)):
        query = select(c.peer, c.first_seen_ms).where(c.peer.in_(batch))
        yield from ((row.peer, row.first_seen_ms) for row in connection.execute(query))


def _save(
    connection: Connection,
    table: Table,
    rows: Mapping[K, TotalsRow] | Mapping[K, StandingsRow],
    *,
    before: Collection[K],
) -> None:
    """Write rows that were read in this transaction, or were not there."""
    key = [column.name for column in table.primary_key]
    values = {place: to_values(row) for place, row in rows.items()}
    new = [content for place, content in values.items() if place not in before]
    if new:
        connection.execute(insert(table), new)
    changed = [content for place, content in values.items() if place in before]
    if changed:
        names = [column.name for column in table.c if not column.primary_key]
        same = and_(*(table.c[name] == bindparam(f"key_{name}") for name in key))
        query = update(table).where(same).values({name: bindparam(name) for name in names})
        for content in changed:
            content |= {f"key_{name}": content.pop(name) for name in key}
        connection.execute(query, changed)


def see_worker(connection: Connection, peer: PeerId, now_ms: int) -> None:
    """Note inside a transaction of the caller that a peer was there."""
    c = t.workers.c
    seen = case((c.last_seen_ms > now_ms, c.last_seen_ms), else_=now_ms)
    changed = connection.execute(update(t.workers).where(c.peer == peer).values(last_seen_ms=seen))
    if changed.rowcount == 0:
        row = WorkerRow(peer, now_ms, now_ms, device="", gpu=False, software="")
        insert_row(connection, t.workers, row)


def _last_pass(connection: Connection, worker: PeerId) -> tuple[int, int] | None:
    """Return cycle and round of a worker's newest work that passed an audit."""
    c = t.audits.c
    query = select(c.cycle, c.round).where(c.peer == worker, c.outcome == str(AuditOutcome.PASS))
    row = connection.execute(query.order_by(c.cycle.desc(), c.round.desc()).limit(1)).first()
    return None if row is None else (row.cycle, row.round)


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

    def postings_of(
        self, worker: PeerId, *, after_id: int = 0, limit: int = 1000
    ) -> tuple[Posting, ...]:
        c = t.postings.c
        query = select(t.postings).where(c.worker == worker, c.id > after_id)
        return self._rows(Posting, query.order_by(c.id).limit(limit))

    def newest_postings(self, worker: PeerId, limit: int) -> tuple[Posting, ...]:
        c = t.postings.c
        query = select(t.postings).where(c.worker == worker).order_by(c.id.desc()).limit(limit)
        return self._rows(Posting, query)

    def postings_of_round(self, cycle: int, round_number: int) -> tuple[Posting, ...]:
        return self._of_round(Posting, t.postings, cycle, round_number, order="id")

    def posting(self, posting_id: int) -> Posting | None:
        with self._read() as connection:
            return fetch_one(connection, Posting, t.postings, id=posting_id)

    def posting_of(self, commit_sha256: Digest) -> Posting | None:
        c = t.postings.c  # the pay for replaying it names the same commit, and is another work
        query = select(t.postings).where(
            c.commit_sha256 == commit_sha256, c.kind != str(PostingKind.AUDIT)
        )
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

    def trusted_since_last_pass(self, worker: PeerId) -> tuple[Posting, ...]:
        c, lot, higher = t.postings.c, t.lottery.c, t.postings.alias()
        overridden = select(higher.c.id).where(
            higher.c.worker == c.worker,
            higher.c.kind == c.kind,
            higher.c.commit_sha256 == c.commit_sha256,
            higher.c.state.in_((str(PostingState.VOID), str(PostingState.CLAWBACK))),
        )
        query = (
            select(t.postings)
            .join(t.lottery, lot.commit_sha256 == c.commit_sha256)
            .where(
                c.worker == worker,
                c.kind != str(PostingKind.AUDIT),
                c.state == str(PostingState.SETTLED),
                lot.drawn == 0,
                ~overridden.exists(),
            )
        )
        with self._read() as connection:
            last = _last_pass(connection, worker)
            if last is not None:
                cycle, round_number = last
                later = and_(c.cycle == cycle, c.round > round_number)
                query = query.where(or_(c.cycle > cycle, later))
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
