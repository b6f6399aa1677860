"""Moving a coordinator's books from the SQLite file to an empty PostgreSQL database.

Table by table, in batches, in one transaction: after an interruption the new database is as empty
as before. Before the commit every row is read back and compared with its original.

Two databases that both go on would make the coordinator sign two different things under one name.
So the file is sealed afterwards: it can be read, and no coordinator starts on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, func, insert, select

from ares_coordinator.store.connect import READ_ONLY, connect, shown
from ares_coordinator.store.connect_sqlite import seal
from ares_coordinator.store.faults import database_faults
from ares_coordinator.store.revisions import check_newest, migrate
from ares_coordinator.store.tables import metadata
from ares_p2p.errors import ConfigFault, StoreFault

BATCH_ROWS = 500  # of at most 64 KiB each: bounds the memory

OnProgress = Callable[[str, int, int], None]  # table, rows done, rows in all (both passes)


@dataclass(frozen=True, slots=True)
class Transfer:
    """What was copied: rows by table, in the order of copying."""

    rows: tuple[tuple[str, int], ...]

    @property
    def total(self) -> int:
        """All rows."""
        return sum(count for _, count in self.rows)


def copy_database(source: Path, target: str, *, on_progress: OnProgress) -> Transfer:
    """Copy a whole SQLite database into an empty one, compare, and seal the old one.

    The caller makes sure that no coordinator works on `source`.

    Raises:
        ConfigFault: the source is not there or of another revision; the target is not empty, or
            cannot be opened. Nothing is changed then.
        StoreFault: a row came back different; nothing is changed then either.
    """
    reading, writing = connect(source, read_only=True), connect(target)
    try:
        check_newest(reading)
        migrate(writing)
        with (
            database_faults(),
            reading.connect().execution_options(**{READ_ONLY: True}) as old,
            old.begin(),
            _long_transaction(writing.connect()) as new,
        ):
            _check_empty(new, shown(target))
            counts = [(table, _count(old, table)) for table in metadata.sorted_tables]
            progress = _Progress(on_progress, 2 * sum(count for _, count in counts))
            for table, _ in counts:
                _copy(old, new, table, progress)
            for table, _ in counts:
                _compare(old, new, table, progress)
        with database_faults():
            seal(source)
    finally:
        reading.dispose()
        writing.dispose()
    return Transfer(tuple((table.name, count) for table, count in counts))


class _Progress:
    def __init__(self, on_progress: OnProgress, total: int) -> None:
        self._on_progress = on_progress
        self._total = total
        self._done = 0

    def advance(self, table: Table, rows: int) -> None:
        self._done += rows
        self._on_progress(table.name, self._done, self._total)


@contextmanager
def _long_transaction(connection: Connection) -> Iterator[Connection]:
    with connection, connection.begin() as transaction:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        yield connection
        with database_faults(committing=True):
            transaction.commit()


def _count(connection: Connection, table: Table) -> int:
    return connection.execute(select(func.count()).select_from(table)).scalar_one()


def _check_empty(connection: Connection, name: str) -> None:
    full = [table.name for table in metadata.sorted_tables if _count(connection, table)]
    if full:
        raise ConfigFault(
            f"{name} is not empty: there are rows in {', '.join(full[:3])}",
            hint="Copy into a new database: createdb NAME",
        )


def _batches(connection: Connection, table: Table) -> Iterator[list[tuple[Any, ...]]]:
    query = select(table).order_by(*table.primary_key)
    rows = connection.execute(query, execution_options={"stream_results": True})
    for batch in rows.partitions(BATCH_ROWS):
        yield [tuple(row) for row in batch]


def _copy(old: Connection, new: Connection, table: Table, progress: _Progress) -> None:
    names = table.columns.keys()
    for batch in _batches(old, table):
        new.execute(insert(table), [dict(zip(names, row, strict=True)) for row in batch])
        progress.advance(table, len(batch))


def _compare(old: Connection, new: Connection, table: Table, progress: _Progress) -> None:
    missing: list[tuple[Any, ...]] = []
    pairs = zip_longest(_batches(old, table), _batches(new, table), fillvalue=missing)
    for ours, theirs in pairs:
        if ours != theirs:
            raise StoreFault(f"a row of {table.name} came back different: nothing was copied")
        progress.advance(table, len(ours))
