"""The database engine: one connection, safe pragmas, migrations, and its faults as ours.

SQLite runs with a write-ahead log and `synchronous=FULL`: what a method returned from is on the
disk. Writers take the lock at the start of a transaction, readers never do, so that another
process may look at a running coordinator's database. The file is created for its owner only: it
holds the secret seeds of the cycles.

It refuses other databases than SQLite, and files written by a newer version of this program.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from ares_p2p.errors import ConfigFault, DiskFull, StoreFault

READ_ONLY = "ares_read_only"  # execution option of a connection that will not write
MIGRATIONS = Path(__file__).parent / "migrations"
PRAGMAS = (
    "PRAGMA busy_timeout = 10000",  # ms; a backup or a reader may hold the file for a moment
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA recursive_triggers = ON",  # or REPLACE would delete past the append-only triggers
)


@contextmanager
def database_faults() -> Iterator[None]:
    """Turn what SQLAlchemy and the driver raise into `DiskFull` or `StoreFault`."""
    try:
        yield
    except SQLAlchemyError as error:
        cause = error.orig if isinstance(error, DBAPIError) else None
        if isinstance(cause, sqlite3.Error) and _is_disk_full(cause):
            raise DiskFull("the database cannot grow: the disk is full") from error
        raise StoreFault(f"the database refused: {cause or error}") from error
    except sqlite3.Error as error:
        raise StoreFault(f"the database refused: {error}") from error


def _is_disk_full(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def url_of(target: str | Path) -> URL:
    """Return the database URL of a path or of a URL.

    Raises: ConfigFault: no URL, or one of a database that is not supported.
    """
    if isinstance(target, Path) or "://" not in target:
        return URL.create("sqlite", database=str(target))
    try:
        url = make_url(target)
    except ArgumentError as error:
        raise ConfigFault(f"{target[:40]!r} is no database URL") from error
    if url.get_backend_name() != "sqlite":
        raise ConfigFault(
            f"a sqlite database expected, {url.get_backend_name()} came",
            hint="Give a path, or sqlite:///path.",
        )
    return url


def _prepare_file(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise StoreFault(f"cannot open the database {path}: {error.strerror}") from error


def connect(target: str | Path) -> Engine:
    """Return an engine over one connection, owned by the calling thread."""
    url = url_of(target)
    if url.database and url.database != ":memory:":
        _prepare_file(Path(url.database))
    engine = create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": True})

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: DBAPIConnection, _record: object) -> None:
        connection.isolation_level = None  # the driver's own BEGIN comes too late
        cursor = connection.cursor()
        for pragma in PRAGMAS:
            cursor.execute(pragma)
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        read_only = connection.get_execution_options().get(READ_ONLY, False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def migrate(engine: Engine) -> None:
    """Bring the database to the newest revision, in one transaction.

    Raises: ConfigFault: it was written by a newer version. StoreFault, DiskFull.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    known = {revision.revision for revision in script.walk_revisions()}
    with database_faults():
        with engine.connect().execution_options(**{READ_ONLY: True}) as connection:
            current = MigrationContext.configure(connection).get_current_revision()
        if current is not None and current not in known:
            raise ConfigFault(
                f"the database has revision {current[:20]!r}, which this version does not know",
                hint="It was written by a newer version: upgrade, or restore a backup.",
            )
        if current != script.get_current_head():
            with engine.begin() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
