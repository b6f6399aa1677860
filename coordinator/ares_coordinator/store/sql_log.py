"""The Merkle log of the ledger over SQL: its nodes, its signed heads, its pages, its proofs.

Posting `id` is leaf `id - 1`. The root of every complete subtree is a row of `log_nodes`, written
in the transaction of the posting that completes it and never changed; so a root, a frontier and a
proof of any size cost O(log n) reads of a key.

It refuses to go on from a log that does not end where the postings do: then one of the two tables
was changed by another program.
Source: RFC 9162, section 2.1; `ares_p2p.crypto.merkle`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import Connection, select, update

from ares_coordinator.store import tables as t
from ares_coordinator.store.credit_rows import HeadRow, PageToSign, SealRow
from ares_coordinator.store.rows import RecordRow
from ares_coordinator.store.sql_base import SqlBase, fetch_one, insert_row, to_row
from ares_coordinator.store.sql_credit import append_postings
from ares_coordinator.store.sql_cycles import save_records
from ares_coordinator.store.sql_nodes import log_size, node_reader
from ares_p2p.crypto.merkle import (
    consistency_path,
    frontier_at,
    inclusion_path,
    root_at,
)
from ares_p2p.domain import NO_PAGE, LedgerHead, Posting, RoundSettlement
from ares_p2p.errors import InternalFault, LedgerTampered
from ares_p2p.ids import Digest, PeerId, blob_id_of
from ares_p2p.proofs.ledger import MAX_LEAVES, LedgerPage, encode_page, leaf_of
from ares_p2p.wire.codec import decode_envelope, kind_of

HEAD = kind_of(LedgerHead)
SETTLEMENT = kind_of(RoundSettlement)


class SqlLog(SqlBase):
    """Implements the log of `CreditStore`; its docstrings are there."""

    def seal(
        self,
        cycle: int,
        round_number: int,
        postings: Sequence[Posting],
        *,
        sign_head: Callable[[int, Digest], RecordRow],
        sign_settlement: Callable[[PageToSign], RecordRow],
    ) -> SealRow:
        place = {"cycle": cycle, "round": round_number}
        with self._write() as connection:
            stored = _record(connection, SETTLEMENT, place)
            if stored is not None:
                return _sealed(connection, stored)
            append_postings(connection, postings)
            size, before = log_size(connection), _newest_head(connection)
            head, page, data = None, NO_PAGE, b""
            if size > (0 if before is None else before.size):
                root = root_at(size, node_reader(connection))
                head = _in_place(sign_head(size, root), HEAD, place)
                data = _page_data(connection, head.envelope, size, before)
                page = blob_id_of(data)
                row = HeadRow(
                    size=size,
                    root=root,
                    cycle=cycle,
                    round=round_number,
                    envelope=head.envelope,
                    page_blob_id=page,
                    page_size_bytes=len(data),
                    at_ms=head.saved_ms,
                )
                insert_row(connection, t.log_heads, row)
                _save_newest(connection, head)
            to_sign = PageToSign(page, len(data), lambda peer: _settled(connection, peer))
            settlement = _in_place(sign_settlement(to_sign), SETTLEMENT, place)
            save_records(connection, (settlement,))
            return SealRow(settlement, head, page, data)

    def log_head(self) -> HeadRow | None:
        with self._read() as connection:
            return _newest_head(connection)

    def log_heads(self, *, after_size: int = 0, limit: int = 100) -> tuple[HeadRow, ...]:
        c = t.log_heads.c
        query = select(t.log_heads).where(c.size > after_size).order_by(c.size).limit(limit)
        return self._rows(HeadRow, query)

    def log_size(self) -> int:
        with self._read() as connection:
            return log_size(connection)

    def log_root(self, size: int) -> Digest:
        with self._read() as connection:
            _check_size(connection, size)
            return root_at(size, node_reader(connection))

    def inclusion_proof(self, index: int, size: int) -> tuple[Digest, ...]:
        with self._read() as connection:
            _check_size(connection, size)
            return inclusion_path(index, count=size, read=node_reader(connection))

    def consistency_proof(self, first: int, second: int) -> tuple[Digest, ...]:
        with self._read() as connection:
            _check_size(connection, second)
            return consistency_path(first, second=second, read=node_reader(connection))

    def page_bytes(self, size: int) -> bytes:
        with self._read() as connection:
            head = fetch_one(connection, HeadRow, t.log_heads, size=size)
            if head is None:
                raise IndexError(f"no head of {size} postings")
            return _page_of(connection, head)


def _check_size(connection: Connection, size: int) -> None:
    there = log_size(connection)
    if not 0 <= size <= there:
        raise IndexError(f"a log of {size} postings, there are {there}")


def _record(connection: Connection, kind: str, place: dict[str, int]) -> RecordRow | None:
    return fetch_one(connection, RecordRow, t.records, kind=kind, peer="", **place)


def _in_place(record: RecordRow, kind: str, place: dict[str, int]) -> RecordRow:
    if (record.kind, record.cycle, record.round) != (kind, *place.values()):
        raise InternalFault(
            f"a {kind} of cycle {place['cycle']} round {place['round']} expected to be signed, "
            f"{record.kind} of cycle {record.cycle} round {record.round} came"
        )
    return record


def _newest_head(connection: Connection, *, below: int | None = None) -> HeadRow | None:
    query = select(t.log_heads).order_by(t.log_heads.c.size.desc()).limit(1)
    if below is not None:
        query = query.where(t.log_heads.c.size < below)
    row = connection.execute(query).first()
    return None if row is None else to_row(HeadRow, row)


def _save_newest(connection: Connection, head: RecordRow) -> None:
    """Store a head's record; all heads share one place in the DHT, so only this one stays there."""
    c = t.records.c
    earlier = update(t.records).where(c.kind == HEAD, c.in_dht == 1).values(in_dht=0)
    connection.execute(earlier)
    save_records(connection, (head,))


def _settled(connection: Connection, peer: PeerId) -> int:
    c = t.standings.c
    query = select(c.settled_ucredits).where(c.worker == peer)
    return connection.execute(query).scalar() or 0


def _sealed(connection: Connection, settlement: RecordRow) -> SealRow:
    """Return what is stored of a round that was settled before."""
    place = {"cycle": settlement.cycle, "round": settlement.round}
    row = fetch_one(connection, HeadRow, t.log_heads, **place)
    if row is None:
        return SealRow(settlement)
    head = _record(connection, HEAD, place)
    return SealRow(settlement, head, row.page_blob_id, _page_of(connection, row))


def _page_of(connection: Connection, head: HeadRow) -> bytes:
    before = _newest_head(connection, below=head.size)
    return _page_data(connection, head.envelope, head.size, before)


def _page_data(connection: Connection, envelope: bytes, size: int, before: HeadRow | None) -> bytes:
    """Return the page with all leaves since the head before.

    A page is bounded. What is beyond, the oldest, is left out: nobody but a database that is
    older than its log has so many, and the API proves those leaves one by one.
    """
    first = max(0 if before is None else before.size, size - MAX_LEAVES)
    c = t.postings.c
    query = select(t.postings).where(c.id > first, c.id <= size).order_by(c.id)
    leaves = tuple(leaf_of(to_row(Posting, row)) for row in connection.execute(query))
    if len(leaves) != size - first:
        raise LedgerTampered(
            f"postings has {len(leaves)} rows of id {first + 1} to {size}",
            hint="ares-coordinator ledger verify",
        )
    frontier = frontier_at(first, node_reader(connection))
    return encode_page(LedgerPage(decode_envelope(envelope), first, frontier, leaves))
