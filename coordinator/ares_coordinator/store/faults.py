"""What the database and its driver raise, as faults of ours.

A message of ours holds neither a password nor a stored value: PostgreSQL puts the whole row that
it refuses into its details, and a row may be a secret seed. So only its first line is kept.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from ares_p2p.errors import AresError, DatabaseRefused, DiskFull, StoreFault

# SQLSTATE, appendix A of the PostgreSQL manual
DISK_FULL = "53100"
NOT_ALLOWED = "42501"
UNDONE = frozenset({"40001", "40P01"})  # serialization failure, deadlock: it may be done again
SERVER_STOPS = frozenset({"57P01", "57P02", "57P03", "57P05"})
CONNECTION_CLASS = "08"


class TransactionUndone(StoreFault):
    """A transaction of which nothing is stored, through no fault of the call: it may be repeated.

    The server hung up before the commit was sent, or undid it for the sake of another one.
    """


@contextmanager
def database_faults(*, committing: bool = False) -> Iterator[None]:
    """Turn what SQLAlchemy and the drivers raise into faults of ours.

    Args:
        committing: a connection that is lost now leaves open whether the transaction is stored.
    Raises: DiskFull. DatabaseRefused: a right is missing. TransactionUndone, StoreFault.
    """
    try:
        yield
    except DBAPIError as error:
        if isinstance(error.orig, sqlite3.Error):
            raise _sqlite_fault(error.orig) from error
        raise _postgres_fault(error, committing=committing) from None  # its details are values
    except SQLAlchemyError as error:
        raise StoreFault(f"the database refused: {error}") from error
    except sqlite3.Error as error:
        raise _sqlite_fault(error) from error


def _sqlite_fault(error: sqlite3.Error) -> AresError:
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        return DiskFull("the database cannot grow: the disk is full")
    return StoreFault(f"the database refused: {error}")


def _postgres_fault(error: DBAPIError, *, committing: bool) -> AresError:
    state = getattr(error.orig, "sqlstate", None) or ""
    said = first_line(error.orig)
    if state == DISK_FULL:
        return DiskFull(
            "the database cannot grow: the disk of its server is full",
            hint="Free some space on the server's disk; nothing is lost.",
        )
    if state == NOT_ALLOWED:
        return DatabaseRefused(
            f"the database user lacks a right: {said}",
            hint="Make the user its owner: psql -c 'ALTER DATABASE name OWNER TO user'",
        )
    lost = error.connection_invalidated or state in SERVER_STOPS or state[:2] == CONNECTION_CLASS
    if lost and committing:
        return StoreFault(
            f"the connection to the database was lost in a commit: {said}",
            hint="Start again: what was being done is looked up and, where needed, repeated.",
        )
    if lost:
        return TransactionUndone(
            f"the connection to the database was lost: {said}",
            hint="Nothing is lost: start again once the server runs.",
        )
    if state in UNDONE:
        return TransactionUndone(f"the database undid a transaction: {said}")
    return StoreFault(f"the database refused: {said}")


def first_line(error: Any) -> str:
    """Return what a driver's error says, without details, in one bounded line."""
    primary = getattr(getattr(error, "diag", None), "message_primary", None)
    lines = str(primary or error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip()[:300]
