"""Columns and checks in one word each: strict types, no nulls unless asked for.

`tables` and the migrations use them. The migrations are frozen: what a function here makes must
stay as it is; a new need gets a new function.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import (
    REAL,
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeEngine

INT: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")
FLOAT: TypeEngine[float] = Double().with_variant(REAL(), "sqlite")


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
    """Return a strict table with a growing `id` of which none is ever used again."""
    number = Column("id", INT, primary_key=True, autoincrement=True)
    return Table(name, metadata, number, *items, sqlite_strict=True, sqlite_autoincrement=True)


def integer(name: str, *items: SchemaItem, null: bool = False, key: bool = False) -> Column[int]:
    """Return an integer column."""
    return Column(name, INT, *items, nullable=null, primary_key=key, autoincrement=False)


def number(name: str, *, null: bool = True) -> Column[float]:
    """Return a double column."""
    return Column(name, FLOAT, nullable=null)


def text(name: str, *items: SchemaItem, null: bool = False, key: bool = False) -> Column[str]:
    """Return a text column."""
    return Column(name, Text, *items, nullable=null, primary_key=key)


def blob(name: str, *items: SchemaItem, null: bool = False, key: bool = False) -> Column[bytes]:
    """Return a column of bytes."""
    return Column(name, LargeBinary, *items, nullable=null, primary_key=key)


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
