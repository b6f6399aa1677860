"""Columns and checks in one word each: strict types, no nulls unless asked for.

`tables` and the migrations use them. The migrations are frozen: what a function here makes must
stay as it is; a new need gets a new function.

Both databases hold the same: 64-bit integers, doubles, bytes, and text that is compared byte by
byte, whatever language the server was set up for, so that every order is the same in both.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import (
    DDL,
    REAL,
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    FetchedValue,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TextClause,
    event,
)
from sqlalchemy import text as literal_text
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeEngine

INT: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")
FLOAT: TypeEngine[float] = Double().with_variant(REAL(), "sqlite")
TEXT: TypeEngine[str] = Text().with_variant(Text(collation="C"), "postgresql")


def new_metadata() -> MetaData:
    """Return empty metadata that gives every constraint a stable name."""
    return MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


def strict_table(metadata: MetaData, name: str, *items: SchemaItem) -> Table:
    """Return a table whose columns take nothing but their type."""
    return Table(name, metadata, *items, sqlite_strict=True)


def log_table(metadata: MetaData, name: str, *items: SchemaItem) -> Table:
    """Return a strict table whose `id` counts 1, 2, 3, ..., without gaps.

    No id is ever used again, as long as the newest row stays. PostgreSQL's own sequences would
    leave a gap for every transaction that was undone.
    """
    number = Column("id", INT, primary_key=True, autoincrement=False, server_default=FetchedValue())
    table = Table(name, metadata, number, *items, sqlite_strict=True, sqlite_autoincrement=True)
    for statement in _count_ids(name):
        counting = DDL(statement).execute_if(dialect="postgresql")  # type: ignore[no-untyped-call]
        event.listen(table, "after_create", counting)
    return table


def _count_ids(table: str) -> tuple[str, str]:
    """Return the statements that let PostgreSQL give a new row the next id.

    Safe, because there is one writer; two would be told that the key is taken.
    """
    function = f"{table}_next_id"
    following = f"SELECT coalesce(max(id), 0) + 1 INTO NEW.id FROM {table}"  # noqa: S608
    body = f"BEGIN IF NEW.id IS NULL THEN {following}; END IF; RETURN NEW; END"
    counting = f"BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {function}()"
    return (
        f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$",
        f"CREATE TRIGGER {function} {counting}",
    )


def integer(name: str, *items: SchemaItem, null: bool = False, key: bool = False) -> Column[int]:
    """Return an integer column."""
    return Column(name, INT, *items, nullable=null, primary_key=key, autoincrement=False)


def number(name: str, *, null: bool = True) -> Column[float]:
    """Return a double column."""
    return Column(name, FLOAT, nullable=null)


def text(name: str, *items: SchemaItem, null: bool = False, key: bool = False) -> Column[str]:
    """Return a text column."""
    return Column(name, TEXT, *items, nullable=null, primary_key=key)


def blob(name: str, *items: SchemaItem, null: bool = False, key: bool = False) -> Column[bytes]:
    """Return a column of bytes."""
    return Column(name, LargeBinary, *items, nullable=null, primary_key=key)


def falling(column: str) -> TextClause:
    """Return a column as an index orders it from the largest value down."""
    return literal_text(f"{column} DESC")


def check_digest(column: str) -> CheckConstraint:
    """Return the check that a column holds 32 bytes."""
    return CheckConstraint(f"length({column}) = 32", name=column)


def check_flag(column: str) -> CheckConstraint:
    """Return the check that a column holds 0 or 1."""
    return CheckConstraint(f"{column} IN (0, 1)", name=column)


def check_one_of(column: str, values: Iterable[str]) -> CheckConstraint:
    """Return the check that a column holds one of some words."""
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


def check_not_negative(*columns: str) -> CheckConstraint:
    """Return the check that columns hold no negative number."""
    return CheckConstraint(" AND ".join(f"{c} >= 0" for c in columns), name="not_negative")
