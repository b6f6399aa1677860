"""One moment of a coordinator's database, to be read only, also while the coordinator runs.

Everything that a snapshot returns is of the moment at which it was opened: nothing is locked, and
nobody waits for it (SQLite keeps its write-ahead log for as long). A row that is not what any
version of this program writes comes back as `Unreadable`, so that a check can name it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from sqlalchemy import Connection, Engine, Row, Select, Table, func, select, tuple_

from ares_coordinator.store import tables as t
from ares_coordinator.store.connect import READ_ONLY, connect
from ares_coordinator.store.credit_rows import HeadRow, StandingsRow, TotalsRow, Unreadable
from ares_coordinator.store.faults import database_faults
from ares_coordinator.store.revisions import check_newest
from ares_coordinator.store.sql import SqlStore
from ares_coordinator.store.sql_base import fetch_one, to_row
from ares_p2p.domain import AuditOutcome, Posting
from ares_p2p.errors import InternalFault
from ares_p2p.ids import Digest, PeerId

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R", bound="DataclassInstance")
PAGE = 2000  # rows read at a time: bounds memory, about 1 kB each


class Snapshot(SqlStore):
    """A store of which only what reads may be called. Made by `open_snapshot`."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        with database_faults():
            self._connection = engine.connect().execution_options(**{READ_ONLY: True})
            self._connection.begin()

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with database_faults():
            yield self._connection

    @contextmanager
    def _write(self) -> Iterator[NoReturn]:
        raise InternalFault("a snapshot is for reading")

    def close(self) -> None:
        """End the transaction and let go of the database."""
        self._connection.close()
        super().close()

    # --- all rows of a table, in order ---------------------------------------------------------

    def all_postings(self) -> Iterator[Posting | Unreadable]:
        """Yield all postings in the order of their ids."""
        return self._stream(Posting, t.postings, "id")

    def postings_by_worker(self) -> Iterator[Posting | Unreadable]:
        """Yield all postings by worker, each worker's in the order of their ids."""
        return self._stream(Posting, t.postings, "worker", "id")

    def all_totals(self) -> Iterator[TotalsRow | Unreadable]:
        """Yield the projection by worker and kind."""
        return self._stream(TotalsRow, t.worker_totals, "worker", "kind")

    def all_standings(self) -> Iterator[StandingsRow | Unreadable]:
        """Yield the standings by worker."""
        return self._stream(StandingsRow, t.standings, "worker")

    def all_heads(self) -> Iterator[HeadRow | Unreadable]:
        """Yield the signed heads, the smallest log first."""
        return self._stream(HeadRow, t.log_heads, "size")

    def first_seen(self) -> Iterator[tuple[PeerId, int]]:
        """Yield every worker and when it was first seen, by worker."""
        c = t.workers.c
        for row in self._pages(select(c.peer, c.first_seen_ms), t.workers, ("peer",)):
            yield row.peer, row.first_seen_ms

    def _stream(self, cls: type[R], table: Table, *key: str) -> Iterator[R | Unreadable]:
        for row in self._pages(select(table), table, key):
            try:
                yield to_row(cls, row)
            except ValueError as error:
                place = tuple(row._mapping[name] for name in key)
                yield Unreadable(table.name, place, str(error))

    def _pages(
        self, query: Select[Any], table: Table, key: tuple[str, ...]
    ) -> Iterator[Row[*tuple[Any, ...]]]:
        columns = [table.c[name] for name in key]
        ordered = query.order_by(*columns).limit(PAGE)
        page = ordered
        while True:
            with self._read() as connection:
                rows = connection.execute(page).all()
            yield from rows
            if len(rows) < PAGE:
                return
            last = tuple(rows[-1]._mapping[name] for name in key)
            page = ordered.where(tuple_(*columns) > last)

    # --- the nodes of the log ------------------------------------------------------------------

    def nodes(self, level: int, begin: int, end: int) -> dict[int, Digest]:
        """Return the stored nodes of a level at positions `begin` to `end - 1`."""
        c = t.log_nodes.c
        query = select(c.position, c.sha256).where(
            c.level == level, c.position >= begin, c.position < end
        )
        with self._read() as connection:
            return {row.position: row.sha256 for row in connection.execute(query)}

    def nodes_beyond(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield (level, position) of nodes that a log of `size` leaves cannot have; at most 100."""
        c, left = t.log_nodes.c, 100
        with self._read() as connection:
            for (level,) in connection.execute(select(c.level).distinct().order_by(c.level)).all():
                query = select(c.position).where(c.level == level, c.position >= size >> level)
                for (position,) in connection.execute(query.order_by(c.position).limit(left)).all():
                    left -= 1
                    yield level, position

    def head_of_round(self, cycle: int, round_number: int) -> HeadRow | None:
        """Return the signed head that a round's settlement sealed."""
        with self._read() as connection:
            return fetch_one(connection, HeadRow, t.log_heads, cycle=cycle, round=round_number)

    def wrong_gpu_passes(self) -> tuple[tuple[PeerId, int, int], ...]:
        """Return (worker, stored, counted) where `gpu_passes` is not what the audits say."""
        a, work, w = t.audits.c, t.contributions.c, t.workers.c
        passed = (
            select(a.peer, func.count().label("passes"))
            .join_from(t.audits, t.contributions, work.commit_sha256 == a.commit_sha256)
            .where(a.outcome == str(AuditOutcome.PASS), work.gpu == 1)
            .group_by(a.peer)
            .subquery()
        )
        counted = func.coalesce(passed.c.passes, 0)
        query = (
            select(w.peer, w.gpu_passes, counted.label("counted"))
            .join_from(t.workers, passed, passed.c.peer == w.peer, isouter=True)
            .where(w.gpu_passes != counted)
            .order_by(w.peer)
        )
        with self._read() as connection:
            rows = connection.execute(query).all()
        return tuple((PeerId(peer), int(stored), int(count)) for peer, stored, count in rows)

    def streaks_drawn(self, commits: Collection[Digest]) -> dict[Digest, int]:
        """Return the streak by which the lottery drew each of these commits, if it did."""
        c = t.lottery.c
        with self._read() as connection:
            rows = connection.execute(
                select(c.commit_sha256, c.streak).where(c.commit_sha256.in_(commits))
            )
            return {row.commit_sha256: row.streak for row in rows}

    def counts_of_ledger(self) -> tuple[int, int, int]:
        """Return how many postings, workers with postings and rounds there are."""
        with self._read() as connection:
            counted = [
                connection.execute(select(func.count()).select_from(table)).scalar_one()
                for table in (t.postings, t.standings, t.rounds)
            ]
        return counted[0], counted[1], counted[2]


def open_snapshot(target: str | Path) -> Snapshot:
    """Open what a database holds at this moment.

    Raises: as `ares_coordinator.store.sql.open_store` with `read_only`.
    """
    engine = connect(target, read_only=True)
    try:
        check_newest(engine)
        return Snapshot(engine)
    except BaseException:
        engine.dispose()
        raise
