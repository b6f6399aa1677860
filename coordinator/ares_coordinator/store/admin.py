"""What `ares-coordinator db` shows of a database, and bringing one up to date."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, func, inspect, select, table

from ares_coordinator.store.connect import READ_ONLY, connect, shown
from ares_coordinator.store.faults import database_faults
from ares_coordinator.store.revisions import (
    Migration,
    current_revision,
    migrate,
    newest_revision,
    rehearse,
)


@dataclass(frozen=True, slots=True)
class DatabaseStatus:
    """One look at a database."""

    database: str  # without password
    kind: str  # "sqlite" or "postgresql"
    revision: str | None  # None: nothing in it yet
    newest_revision: str
    size_bytes: int
    rows: tuple[tuple[str, int], ...]  # by table name
    in_use_by: str | None  # the coordinator that works on it; only a server knows


def database_status(target: str | Path) -> DatabaseStatus:
    """Return what is in a database, of whatever revision, also while a coordinator runs on it.

    Raises: ConfigFault: it is not there, or of a newer version. DatabaseAway, StoreFault.
    """
    engine = connect(target, read_only=True)
    try:
        revision = current_revision(engine)
        with (
            database_faults(),
            engine.connect().execution_options(**{READ_ONLY: True}) as connection,
            connection.begin(),
        ):
            names = sorted(set(inspect(connection).get_table_names()) - {"alembic_version"})
            return DatabaseStatus(
                database=shown(target),
                kind=connection.dialect.name,
                revision=revision,
                newest_revision=newest_revision(),
                size_bytes=_size_bytes(connection),
                rows=tuple((name, _count(connection, name)) for name in names),
                in_use_by=_in_use_by(connection),
            )
    finally:
        engine.dispose()


def migrate_database(target: str | Path, *, rehearsal: bool = False) -> Migration:
    """Bring a database to the newest revision; with `rehearsal` undo it and say what was run.

    Raises: ConfigFault: it is of a newer version, or in use. DatabaseAway, StoreFault, DiskFull.
    """
    engine = connect(target)
    try:
        return rehearse(engine) if rehearsal else migrate(engine)
    finally:
        engine.dispose()


def _size_bytes(connection: Connection) -> int:
    if connection.dialect.name == "postgresql":
        query = "SELECT pg_database_size(current_database())"
    else:
        query = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
    return int(connection.exec_driver_sql(query).scalar_one())


def _count(connection: Connection, name: str) -> int:
    return connection.execute(select(func.count()).select_from(table(name))).scalar_one()


def _in_use_by(connection: Connection) -> str | None:
    if connection.dialect.name != "postgresql":
        return None
    from ares_coordinator.store.connect_postgres import holder

    raw = connection.connection.dbapi_connection
    return None if raw is None else holder(raw)  # type: ignore[arg-type]
