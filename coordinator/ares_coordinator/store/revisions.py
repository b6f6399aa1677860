"""The schema's revision in a database: what it is, and bringing it to the newest.

A migration is one transaction, in both databases. It refuses a database of a newer version of
this program, and one that holds another program's tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, event, inspect

from ares_coordinator.store.connect import READ_ONLY
from ares_coordinator.store.faults import database_faults
from ares_p2p.errors import ConfigFault

MIGRATIONS = Path(__file__).parent / "migrations"
UPGRADE = "ares-coordinator db migrate"


@dataclass(frozen=True, slots=True)
class Migration:
    """From which revision a database came to which; `before` is None when it was empty."""

    before: str | None
    after: str
    statements: tuple[str, ...] = ()  # of a rehearsal: what would be run


def newest_revision() -> str:
    """Return the newest revision that this version knows."""
    head = _script().get_current_head()
    assert head is not None, "there are revisions, and one is the last"
    return head


def current_revision(engine: Engine) -> str | None:
    """Return the revision of a database, None for an empty one.

    Raises: ConfigFault: it was written by a newer version, or by another program.
    """
    with (
        database_faults(),
        engine.connect().execution_options(**{READ_ONLY: True}) as connection,
        connection.begin(),
    ):
        current = MigrationContext.configure(connection).get_current_revision()
        tables = [] if current else inspect(connection).get_table_names()
    if current is not None and current not in _known():
        raise ConfigFault(
            f"the database has revision {current[:20]!r}, which this version does not know",
            hint="It was written by a newer version: upgrade, or restore a backup.",
        )
    if tables:
        raise ConfigFault(
            f"the database holds tables of another program: {', '.join(sorted(tables)[:3])}",
            hint="Give the coordinator a database of its own: createdb NAME",
        )
    return current


def check_newest(engine: Engine) -> None:
    """Raises: ConfigFault: the database is of another revision than this program."""
    current = current_revision(engine)
    if current != newest_revision():
        raise ConfigFault(
            f"the database has revision {current or 'none'}, {newest_revision()} expected",
            hint=UPGRADE,
        )


def migrate(engine: Engine) -> Migration:
    """Bring the database to the newest revision, in one transaction.

    Raises: ConfigFault: it was written by a newer version. StoreFault, DiskFull.
    """
    before = current_revision(engine)
    if before != newest_revision():
        with database_faults(), engine.begin() as connection:
            _upgrade(connection)
    return Migration(before, newest_revision())


def rehearse(engine: Engine) -> Migration:
    """Do what `migrate` does, undo it, and return the statements that it ran."""
    before = current_revision(engine)
    statements: list[str] = []
    if before != newest_revision():
        with database_faults(), engine.connect() as connection, connection.begin() as transaction:
            with _listening(connection, statements.append):
                _upgrade(connection)
            transaction.rollback()
    return Migration(before, newest_revision(), tuple(statements))


@contextmanager
def _listening(connection: Connection, hear: Callable[[str], None]) -> Iterator[None]:
    """Hear every statement of a connection that is no mere look."""

    def on_statement(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        text = " ".join(statement.split())
        if not text.startswith(("SELECT", "PRAGMA", "SET ")):
            hear(text)

    event.listen(connection, "before_cursor_execute", on_statement)
    try:
        yield
    finally:
        event.remove(connection, "before_cursor_execute", on_statement)


def _upgrade(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")  # large tables take long
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


@cache
def _script() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


@cache
def _known() -> frozenset[str]:
    return frozenset(revision.revision for revision in _script().walk_revisions())
