"""Where the database is, and the engine to it: one connection, and its transactions.

SQLite (a path, or `sqlite:///path`) or PostgreSQL (`postgresql://user@host/name`); what differs
is in `connect_sqlite` and `connect_postgres`. Passwords come in through the URL, PGPASSWORD or
~/.pgpass, and go out nowhere: messages name a database by `shown`.

It refuses other databases. Migrations are in `revisions`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError

from ares_coordinator.settings import DATABASE_FILE
from ares_coordinator.store import connect_sqlite
from ares_p2p.errors import ConfigFault, DatabaseRefused

READ_ONLY = "ares_read_only"  # execution option of a connection that will not write
DATABASE_URL: Final = "ARES_DATABASE_URL"  # in the environment, so that no file holds a password
POSTGRES_NAMES = ("postgresql", "postgres")
FORMS = "Give a path, sqlite:///path, or postgresql://user@host/name."


def database_target(
    data_dir: Path, url: str, *, environ: Mapping[str, str] = os.environ
) -> str | Path:
    """Return where a coordinator's database is, as `open_store` takes it.

    Args:
        url: `database.url` of the settings; "": `ares.db` in the data directory.
        environ: its ARES_DATABASE_URL goes before the settings.
    Raises: ConfigFault: no URL, or one of a database that is not supported.
    """
    target = environ.get(DATABASE_URL, "").strip() or url.strip()
    if not target:
        return data_dir / DATABASE_FILE
    url_of(target)
    return target


def url_of(target: str | Path) -> URL:
    """Return the database URL of a path or of a URL.

    Raises: ConfigFault: no URL, or one of a database that is not supported.
    """
    if isinstance(target, Path) or "://" not in target:
        return URL.create("sqlite", database=str(target))
    scheme = target.partition("://")[0][:40]  # the rest may hold a password
    try:
        url = make_url(target)
    except (ArgumentError, ValueError):
        raise ConfigFault(f"a database URL expected, {scheme}://... is none", hint=FORMS) from None
    name = url.drivername.partition("+")[0]
    if name == "sqlite":
        return url
    if set("@/") & set(url.database or ""):  # one slash too many makes a name of a password
        raise ConfigFault(f"a database URL expected, {scheme}://... is none", hint=FORMS)
    if name not in POSTGRES_NAMES:
        raise ConfigFault(f"a sqlite or postgresql database expected, {scheme} came", hint=FORMS)
    if not url.database and "service" not in url.query:
        raise ConfigFault(
            "the URL of a postgresql database names none",
            hint="postgresql://user@host/name; `createdb NAME` makes one.",
        )
    return url.set(drivername="postgresql+psycopg")


def shown(target: str | Path) -> str:
    """Return the database as messages and logs may name it: without password and options."""
    url = url_of(target)
    if url.get_backend_name() == "sqlite":
        return url.database or ":memory:"
    plain = URL.create(
        "postgresql", username=url.username, host=url.host, port=url.port, database=url.database
    )
    hosts = {name: url.query[name] for name in ("host", "service") if name in url.query}
    return plain.update_query_dict(hosts).render_as_string().replace("%2F", "/")


def connect(target: str | Path, *, read_only: bool = False) -> Engine:
    """Return an engine over one connection, owned by the calling thread; it connects when used.

    Raises: ConfigFault: no such kind of database, or its driver is not installed.
    """
    url = url_of(target)
    if url.get_backend_name() == "sqlite":
        engine = connect_sqlite.create(url, read_only=read_only)
        reading, writing = connect_sqlite.BEGIN_READ, connect_sqlite.BEGIN_WRITE
    else:
        _check_driver()
        from ares_coordinator.store import connect_postgres

        engine = connect_postgres.create(url, read_only=read_only, shown=shown(target))
        reading, writing = connect_postgres.BEGIN_READ, connect_postgres.BEGIN_WRITE

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        is_reader = connection.get_execution_options().get(READ_ONLY, False)
        connection.exec_driver_sql(reading if is_reader else writing)

    return engine


def _check_driver() -> None:
    try:
        import psycopg  # noqa: F401
    except ImportError as error:  # also raised when it finds no libpq
        raise DatabaseRefused(
            f"a postgresql database needs psycopg, which does not load: {error}",
            hint="pip install 'ares-p2p[postgres]'",
        ) from error
