"""What all parts of the SQL store share: transactions, and rows to dataclasses and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from enum import StrEnum
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

from sqlalchemy import Connection, Engine, Row, Select, Table, and_, insert, select, update

from ares_coordinator.store.connect import READ_ONLY
from ares_coordinator.store.faults import database_faults
from ares_p2p.errors import InternalFault

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R", bound="DataclassInstance")
V = TypeVar("V")
MAX_IN = 500  # values; with four columns each, far below what both databases take


def _keep(value: Any) -> Any:
    return value


def _reader(hint: Any) -> Callable[[Any], Any]:
    for kind in (hint, *get_args(hint)):
        if isinstance(kind, type) and (issubclass(kind, StrEnum) or kind is bool):
            return lambda value: None if value is None else kind(value)
    return _keep


@cache
def _readers(cls: type[Any]) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    hints = get_type_hints(cls)
    return tuple((field.name, _reader(hints[field.name])) for field in fields(cls))


def to_row(cls: type[R], row: Row[*tuple[Any, ...]]) -> R:
    """Return the dataclass whose fields have the names of the row's columns."""
    values = row._mapping
    return cls(**{name: read(values[name]) for name, read in _readers(cls)})


def to_values(row: DataclassInstance) -> dict[str, Any]:
    """Return the columns of a dataclass: enums as text, flags as 0 or 1."""
    return {field.name: to_value(getattr(row, field.name)) for field in fields(row)}


def to_value(value: Any) -> Any:
    """Return one value as the database takes it."""
    if isinstance(value, StrEnum):
        return str(value)
    return int(value) if isinstance(value, bool) else value


class SqlBase:
    """Transactions over one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        """Enter a transaction that holds the write lock; an exception undoes it.

        Raises: TransactionUndone: nothing is stored, it may be done again. StoreFault, DiskFull.
        """
        with (
            database_faults(),
            self._engine.connect() as connection,
            connection.begin() as transaction,
        ):
            yield connection
            with database_faults(committing=True):
                transaction.commit()

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        """Enter a transaction that sees one state of the database and locks nobody out."""
        with database_faults(), self._engine.connect() as plain:
            connection = plain.execution_options(**{READ_ONLY: True})
            with connection.begin():
                yield connection

    def _of_round(
        self, cls: type[R], table: Table, cycle: int, round_number: int, *, order: str
    ) -> tuple[R, ...]:
        wanted = (table.c.cycle == cycle, table.c.round == round_number)
        whole = (table.c[order], *table.primary_key)  # no two rows are equal in it
        return self._rows(cls, select(table).where(*wanted).order_by(*whole))

    def _rows(self, cls: type[R], query: Select[tuple[object, ...]]) -> tuple[R, ...]:
        with self._read() as connection:
            return tuple(to_row(cls, row) for row in connection.execute(query))


def fetch_one(connection: Connection, cls: type[R], table: Table, **key: Any) -> R | None:
    """Return the row of `table` whose columns equal `key`."""
    row = connection.execute(select(table).where(_equals(table, key))).first()
    return None if row is None else to_row(cls, row)


def insert_row(connection: Connection, table: Table, row: DataclassInstance) -> None:
    """Insert a dataclass."""
    connection.execute(insert(table).values(**to_values(row)))


def update_row(
    connection: Connection, table: Table, key: dict[str, Any], values: dict[str, Any]
) -> None:
    """Update exactly one row.

    Raises: InternalFault: there is no such row.
    """
    changed = {name: to_value(value) for name, value in values.items()}
    result = connection.execute(update(table).where(_equals(table, key)).values(**changed))
    if result.rowcount != 1:
        raise InternalFault(f"no row {key} in {table.name}")


def _equals(table: Table, key: dict[str, Any]) -> Any:
    return and_(*(table.c[name] == to_value(value) for name, value in key.items()))


def batches(values: Iterable[V]) -> Iterator[list[V]]:
    """Yield values in lists that fit into one IN of either database."""
    rest = iter(values)
    while batch := list(islice(rest, MAX_IN)):
        yield batch


def insert_all(connection: Connection, table: Table, rows: Sequence[DataclassInstance]) -> None:
    """Insert dataclasses with one statement."""
    if rows:
        connection.execute(insert(table), [to_values(row) for row in rows])
