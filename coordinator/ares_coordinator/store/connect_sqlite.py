"""SQLite: one file, one connection, safe pragmas.

It runs with a write-ahead log and `synchronous=FULL`: what a method returned from is on the disk.
Writers take the lock at the start of a transaction, readers never do, so that another process may
look at a running coordinator's database. The file is created for its owner only: it holds the
secret seeds of the cycles.

A file whose content was moved to another database is sealed: it opens for reading only.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import StaticPool

from ares_p2p.errors import DatabaseRefused, NotInitialised, StoreFault

BEGIN_READ: Final = "BEGIN"
BEGIN_WRITE: Final = "BEGIN IMMEDIATE"
PRAGMAS = (
    "PRAGMA busy_timeout = 10000",  # ms; a backup or a reader may hold the file for a moment
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA recursive_triggers = ON",  # or REPLACE would delete past the append-only triggers
)
SEALED = 1  # PRAGMA user_version of a file that another database has replaced
READER_PRAGMAS = (PRAGMAS[0], "PRAGMA query_only = ON")


def create(url: URL, *, read_only: bool) -> Engine:
    """Return an engine over one connection, owned by the calling thread.

    Raises: NotInitialised: to be read, and not there. StoreFault: it cannot be made.
    """
    if url.database and url.database != ":memory:":
        _prepare_file(Path(url.database), read_only=read_only)
    engine = create_engine(
        url,
        poolclass=StaticPool,
        connect_args={"check_same_thread": True},
        hide_parameters=True,
    )

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: DBAPIConnection, _record: object) -> None:
        connection.isolation_level = None  # the driver's own BEGIN comes too late
        cursor = connection.cursor()
        for pragma in READER_PRAGMAS if read_only else PRAGMAS:
            cursor.execute(pragma)
        cursor.execute("PRAGMA user_version")
        (version,) = cursor.fetchone() or (0,)
        cursor.close()
        if version == SEALED and not read_only:
            connection.close()
            raise DatabaseRefused(
                f"{url.database} was moved to another database",
                hint=(
                    "Set database.url or ARES_DATABASE_URL. To go on with the file after all, and "
                    f"never with both: sqlite3 {url.database} 'PRAGMA user_version = 0'"
                ),
            )

    return engine


def seal(path: Path) -> None:
    """Note in a file that another database has replaced it.

    Raises: sqlite3.Error.
    """
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {SEALED}")


def _prepare_file(path: Path, *, read_only: bool) -> None:
    if read_only:
        if not path.is_file():
            raise NotInitialised(
                f"there is no database {path}",
                hint="Check --data-dir and database.url; `ares-coordinator init` makes a new one.",
            )
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise StoreFault(f"cannot open the database {path}: {error.strerror}") from error
