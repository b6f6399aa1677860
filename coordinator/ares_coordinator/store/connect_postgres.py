"""PostgreSQL: one connection with a lock on the whole database, over psycopg 3.

A coordinator holds an advisory lock for as long as it is connected, so there is one writer, as
with SQLite's file; readers (`read_only`) need no lock. A connection that is lost takes the lock
along; the next transaction connects again and takes it anew, and is refused when another
coordinator was faster. Where the server still holds a session of ours that we lost, we end that
one. The lock belongs to the session: between us and the server there may be a
pooler of sessions, but none that changes servers between transactions.

Transactions that write are SERIALIZABLE, those that read see one state. `synchronous_commit` is
on, whatever the role's own settings say: what a method returned from is on the server's disk.

Imported only when such a database is opened: psycopg is an extra. Source: PostgreSQL manual,
"Explicit Locking", "Client Connection Defaults".
"""

from __future__ import annotations

import os
import secrets
import socket
from typing import Any, Final

import psycopg
from psycopg.adapt import Loader
from psycopg.conninfo import make_conninfo
from psycopg.pq import Ping
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.pool import QueuePool

from ares_coordinator.store.faults import NOT_ALLOWED, TransactionUndone, first_line
from ares_p2p.errors import AresError, DatabaseAway, DatabaseInUse, DatabaseRefused

BEGIN_READ: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
BEGIN_WRITE: Final = "BEGIN ISOLATION LEVEL SERIALIZABLE"
LOCK: Final = (0x41524553, 1)  # "ARES"; advisory locks are per database
LOCK_WAIT: Final = "5s"  # the server may not have noticed yet that an earlier holder is gone
LOCK_TAKEN: Final = "55P03"
CONNECT_TIMEOUT_S: Final = 10
SESSION: Final = {
    "synchronous_commit": "on",
    "extra_float_digits": "1",  # a double comes back as it was stored
    "statement_timeout": "120s",  # ours take milliseconds; a stuck one must not stop a coordinator
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "300s",  # a stopped process does not block the vacuum
    "tcp_keepalives_idle": "30",  # so that a machine that went away lets go of the lock
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
HOLDER = """
    SELECT a.pid, a.application_name, coalesce(host(a.client_addr), 'the server itself')
    FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND l.classid = %s::bigint::oid AND l.objid = %s::bigint::oid
"""


class SumLoader(Loader):
    """Sums of integers are numeric, and come back as integers; averages as doubles."""

    def load(self, data: bytes | bytearray | memoryview) -> int | float:
        text = bytes(data)
        return int(text) if text.lstrip(b"-").isdigit() else float(text)


def create(url: URL, *, read_only: bool, shown: str) -> Engine:
    """Return an engine over one connection, owned by the calling thread.

    Args:
        shown: the database as messages may name it, without a password.
    """
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
        pool_timeout=1,  # nobody else has it; waiting would be our own bug
        hide_parameters=True,
        use_native_hstore=False,  # or every start asks for a type that is never used
    )
    connected_before = False
    ours = f"ares-coordinator {os.getpid()} on {socket.gethostname()[:20]} {secrets.token_hex(4)}"

    @event.listens_for(engine, "do_connect")
    def open_connection(
        _dialect: object, _record: object, _args: object, params: dict[str, Any]
    ) -> psycopg.Connection[Any]:
        nonlocal connected_before
        named = {**params, "application_name": ours}  # nobody else's sessions have this name
        connection = _connect(named, shown, again=connected_before)
        try:
            _prepare(connection, shown, ours, read_only=read_only)
        except BaseException:
            connection.close()
            raise
        connected_before = True
        return connection

    return engine


def _connect(params: dict[str, Any], shown: str, *, again: bool) -> psycopg.Connection[Any]:
    given = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "client_encoding": "utf8",
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        **params,
    }
    try:
        return psycopg.connect(**given, autocommit=True)  # BEGIN is ours
    except psycopg.Error as error:
        raise _why_not(error, given, shown, again=again) from None


def _why_not(error: psycopg.Error, params: dict[str, Any], shown: str, *, again: bool) -> AresError:
    """Return the fault of a connection that did not come about.

    The driver gives no SQLSTATE here, so whether a server is there is asked for.
    """
    said = first_line(error)
    if isinstance(error, psycopg.ProgrammingError):
        return DatabaseRefused(
            f"{shown} with options that the driver does not take: {said}",
            hint="postgresql://user@host:5432/name is enough.",
        )
    if not _is_server_there(params):
        if again:
            return TransactionUndone(
                f"the database server of {shown} is away: {said}",
                hint="Nothing is lost: start again once the server runs.",
            )
        return DatabaseAway(f"no database server answers for {shown}: {said}")
    pgconn = error.pgconn
    if pgconn is not None and (pgconn.needs_password or pgconn.used_password):
        hint = (
            "Check user, password and the database's name (`psql -l`). The password comes from "
            "ARES_DATABASE_URL, PGPASSWORD or ~/.pgpass."
        )
    else:
        hint = "Make the user and the database: `createuser NAME; createdb -O NAME DATABASE`."
    return DatabaseRefused(f"the server does not open {shown}: {said}", hint=hint)


def _is_server_there(params: dict[str, Any]) -> bool:
    plain = {key: value for key, value in params.items() if key != "context"}
    try:
        return psycopg.pq.PGconn.ping(make_conninfo(**plain).encode()) == Ping.OK
    except psycopg.Error:
        return False  # a host that has no address


def _prepare(
    connection: psycopg.Connection[Any], shown: str, ours: str, *, read_only: bool
) -> None:
    """Set up a fresh session, and take the lock of the one writer."""
    connection.adapters.register_loader("numeric", SumLoader)
    try:
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            raise DatabaseRefused(
                f"{shown} is in {encoding}, UTF8 expected",
                hint="Make it anew: createdb -T template0 -E UTF8 NAME",
            )
        settings = SESSION | {"default_transaction_read_only": "on" if read_only else "off"}
        for name, value in settings.items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        if not read_only:
            _take_lock(connection, shown, ours)
    except psycopg.Error as error:
        if error.sqlstate == NOT_ALLOWED:
            raise DatabaseRefused(f"{shown} refused: {first_line(error)}") from None
        raise TransactionUndone(f"{shown} was lost: {first_line(error)}") from None


def _take_lock(connection: psycopg.Connection[Any], shown: str, ours: str) -> None:
    try:
        connection.execute("SELECT set_config('lock_timeout', %s, false)", (LOCK_WAIT,))
        connection.execute("SELECT pg_advisory_lock(%s, %s)", LOCK)
        usual = SESSION["lock_timeout"]
        connection.execute("SELECT set_config('lock_timeout', %s, false)", (usual,))
    except psycopg.Error as error:
        if error.sqlstate != LOCK_TAKEN:
            raise
        row = connection.execute(HOLDER, LOCK).fetchone()
        if row is not None and row[1] == ours:
            connection.execute("SELECT pg_terminate_backend(%s, 5000)", row[:1])
            raise TransactionUndone(f"{shown} still had a session that we lost") from None
        raise DatabaseInUse(
            f"{shown} is in use by {'another session' if row is None else _words(row)}",
            hint="Stop that coordinator first: two would sign different things under one name.",
        ) from None


def holder(connection: psycopg.Connection[Any]) -> str | None:
    """Return who holds the writer's lock, in words; None when nobody does."""
    row = connection.execute(HOLDER, LOCK).fetchone()
    return None if row is None else _words(row)


def _words(row: tuple[Any, ...]) -> str:
    pid, name, address = row
    return f"{name or 'a session'} (backend {pid}, from {address})"
