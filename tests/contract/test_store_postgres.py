"""What only PostgreSQL needs: one writer by a lock, lost connections, ids, refusals at the door."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, event, text

from ares_coordinator.store.faults import TransactionUndone
from ares_coordinator.store.rows import MetaKey
from ares_coordinator.store.sql import SqlStore, open_store
from ares_coordinator.store.tables import metadata
from ares_coordinator.store.thread import StoreThread
from ares_p2p.errors import (
    AresError,
    ConfigFault,
    DatabaseAway,
    DatabaseInUse,
    DatabaseRefused,
    DiskFull,
    InternalFault,
    StoreFault,
)
from store_samples import NOW, begin, commit, contribution, play_round, record
from storefixtures import GUARDED_USER, PASSWORD, PostgresServer, postgres_server

OURS = "application_name LIKE 'ares-coordinator%' AND datname = current_database()"


@pytest.fixture
def server() -> PostgresServer:
    return postgres_server()


@pytest.fixture
def url(server: PostgresServer, tmp_path: Path) -> str:
    return server.fresh(tmp_path)


@pytest.fixture
def store(url: str) -> Iterator[SqlStore]:
    opened = open_store(url)
    yield opened
    opened.close()


def _name(url: str) -> str:
    return url.partition("@/")[2].partition("?")[0]


def _hang_up(server: PostgresServer, url: str) -> None:
    """Cut off every coordinator of a database, and wait until they are gone."""
    waited = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE "
    assert server.run(waited + OURS, _name(url)) == [(True,)]


# --- the schema ---------------------------------------------------------------------------------


def _schema(server: PostgresServer, database: str) -> set[tuple[object, ...]]:
    columns = server.run(
        "SELECT c.table_name, c.column_name, c.data_type, c.is_nullable, c.column_default,"
        " c.collation_name FROM information_schema.columns AS c"
        " WHERE c.table_schema = 'public' AND c.table_name <> 'alembic_version'",
        database,
    )
    constraints = server.run(
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace AND conname <> 'alembic_version_pkc'",
        database,
    )
    indexes = server.run(
        "SELECT tablename, indexdef FROM pg_indexes"
        " WHERE schemaname = 'public' AND tablename <> 'alembic_version'",
        database,
    )
    counting = server.run(
        "SELECT tgrelid::regclass::text, pg_get_triggerdef(oid) FROM pg_trigger"
        " WHERE NOT tgisinternal AND tgname LIKE '%_next_id'",
        database,
    )
    return {*columns, *constraints, *indexes, *counting}


def test_migrated_schema_is_that_of_tables(
    server: PostgresServer, url: str, tmp_path: Path
) -> None:
    plain = server.fresh(tmp_path, migrated=False)
    engine = create_engine(plain.replace("postgresql:", "postgresql+psycopg:"))
    metadata.create_all(engine)
    engine.dispose()
    found = _schema(server, _name(url))
    assert found == _schema(server, _name(plain))
    assert {table for table, *_ in found} == set(metadata.tables)


def test_text_is_compared_by_its_bytes_and_numbers_have_64_bits(
    server: PostgresServer, url: str
) -> None:
    kinds = {row[2:3] + row[5:6] for row in _schema(server, _name(url)) if len(row) == 6}
    wanted = {("text", "C"), ("bigint", None), ("double precision", None), ("bytea", None)}
    assert kinds == wanted


@pytest.mark.parametrize("table", ["postings", "equivocations", "log_nodes", "log_heads"])
def test_append_only_tables_refuse_changes(store: SqlStore, table: str) -> None:
    begin(store)
    play_round(store, 1, 0, [contribution(commit(1, 0, 1))])
    digest = "decode(repeat('00', 32), 'hex')"
    with store._write() as connection:
        connection.exec_driver_sql(
            "INSERT INTO equivocations SELECT 1, 0, peer, '\\x01', '\\x02', 5 FROM workers"
        )
        connection.exec_driver_sql(f"INSERT INTO log_nodes VALUES (9, 9, {digest})")
        connection.exec_driver_sql(
            f"INSERT INTO log_heads VALUES (99, {digest}, 1, 1, '\\x01', {digest}, 1, 1)"
        )
    column = next(iter(metadata.tables[table].columns)).name
    with store._read() as connection:
        before = connection.execute(text(f"SELECT * FROM {table}")).all()
    for statement in (
        f"UPDATE {table} SET {column} = {column}",
        f"DELETE FROM {table}",
        f"TRUNCATE {table} CASCADE",
    ):
        with pytest.raises(StoreFault, match="append-only"), store._write() as connection:
            connection.exec_driver_sql(statement)
    with store._read() as connection:
        assert connection.execute(text(f"SELECT * FROM {table}")).all() == before != []


def test_checks_of_the_database_hold_and_keep_values_to_themselves(store: SqlStore) -> None:
    for statement in (
        "INSERT INTO sequences VALUES ('secret', -9223372036854775809)",
        "INSERT INTO evaluations VALUES (9, 'before', 1, 2.5, 'secret', '[]')",  # no such cycle
        "INSERT INTO records VALUES ('secret', 1, 0, '', 1, '\\x00', '\\x00', 1, 1)",
    ):
        with pytest.raises(StoreFault) as caught, store._write() as connection:
            connection.execute(text(statement))
        assert "secret" not in _everything(caught.value)


def test_ids_have_no_gaps_after_a_transaction_that_was_undone(store: SqlStore) -> None:
    def insert_and_fail() -> None:
        with store._write() as connection:
            connection.exec_driver_sql(
                "INSERT INTO events (at_ms, type, data_json) VALUES (1, '', '')"
            )
            raise InternalFault("in the middle")

    with pytest.raises(InternalFault):
        insert_and_fail()
    assert store.add_event("status", "{}", now_ms=NOW) == 1
    with store._write() as connection:
        connection.exec_driver_sql(
            "INSERT INTO events (at_ms, type, data_json) VALUES (1, 'a', ''), (2, 'b', '')"
        )
    assert [event.id for event in store.events_after(0)] == [1, 2, 3]


# --- transactions -------------------------------------------------------------------------------


def test_commits_wait_for_the_disk_whatever_the_role_says(server: PostgresServer, url: str) -> None:
    server.run(f"ALTER DATABASE {_name(url)} SET synchronous_commit = off")
    server.run(f"ALTER DATABASE {_name(url)} SET extra_float_digits = -15")
    store = open_store(url)
    with store._write() as connection:
        isolation = "SHOW transaction_isolation"
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"
        assert connection.exec_driver_sql(isolation).scalar_one() == "serializable"
        assert connection.exec_driver_sql("SELECT 0.1::float8 + 0.2").scalar_one() == 0.1 + 0.2
    with store._read() as connection:
        assert connection.exec_driver_sql(isolation).scalar_one() == "repeatable read"
    store.close()


def test_second_coordinator_is_refused_and_readers_are_not(
    store: SqlStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ares_coordinator.store.connect_postgres.LOCK_WAIT", "10ms")
    with pytest.raises(DatabaseInUse, match="ares-coordinator") as caught:
        open_store(url)
    assert caught.value.exit_code == ConfigFault.exit_code
    store.set_meta(MetaKey.SETTINGS, "before")
    reader = open_store(url, read_only=True)
    with store._write() as connection:
        connection.exec_driver_sql("UPDATE meta SET value = 'after'")
        assert reader.meta(MetaKey.SETTINGS) == "before"
    assert reader.meta(MetaKey.SETTINGS) == "after"
    reader.close()
    store.close()
    open_store(url).close()


def test_full_disk_is_its_own_fault_and_undone(store: SqlStore) -> None:
    with store._write() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS $$"
            " BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END $$"
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER no_space AFTER INSERT ON meta FOR EACH ROW EXECUTE FUNCTION no_space()"
        )
    with pytest.raises(DiskFull):
        store.set_meta(MetaKey.SETTINGS, "x")
    assert store.meta(MetaKey.SETTINGS) is None


# --- lost connections ---------------------------------------------------------------------------


def test_lost_connection_is_a_fault_and_the_next_call_connects_again(
    store: SqlStore, server: PostgresServer, url: str
) -> None:
    store.set_meta(MetaKey.SETTINGS, "kept")
    _hang_up(server, url)
    with pytest.raises(TransactionUndone):
        store.set_meta(MetaKey.SETTINGS, "lost")
    assert store.meta(MetaKey.SETTINGS) == "kept"
    assert server.run(f"SELECT count(*) FROM pg_stat_activity WHERE {OURS}", _name(url)) == [(1,)]


def test_lost_connection_in_the_middle_undoes_the_transaction(
    store: SqlStore, server: PostgresServer, url: str
) -> None:
    def write_and_be_cut_off() -> None:
        with store._write() as connection:
            connection.exec_driver_sql("INSERT INTO meta VALUES ('settings', 'half')")
            _hang_up(server, url)
            connection.exec_driver_sql("INSERT INTO meta VALUES ('paused', 'half')")

    with pytest.raises(TransactionUndone):
        write_and_be_cut_off()
    assert store.meta(MetaKey.SETTINGS) is None


def test_lock_that_another_coordinator_took_meanwhile_is_not_taken_back(
    store: SqlStore, server: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ares_coordinator.store.connect_postgres.LOCK_WAIT", "10ms")
    _hang_up(server, url)
    other = open_store(url)
    with pytest.raises(TransactionUndone):
        store.set_meta(MetaKey.SETTINGS, "x")
    with pytest.raises(DatabaseInUse):
        store.set_meta(MetaKey.SETTINGS, "x")
    other.close()
    store.set_meta(MetaKey.SETTINGS, "x")


def test_session_of_ours_that_the_server_still_holds_is_ended(
    store: SqlStore, server: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    from ares_coordinator.store.connect_postgres import LOCK

    monkeypatch.setattr("ares_coordinator.store.connect_postgres.LOCK_WAIT", "10ms")
    with store._read() as connection:
        name = connection.exec_driver_sql("SHOW application_name").scalar_one()
    _hang_up(server, url)
    with psycopg.connect(url, application_name=name, autocommit=True) as stale:
        stale.execute("SELECT pg_advisory_lock(%s, %s)", LOCK)
        for _ in range(2):  # the first finds that the connection is lost
            with pytest.raises(TransactionUndone):
                store.set_meta(MetaKey.SETTINGS, "x")
        store.set_meta(MetaKey.SETTINGS, "x")
        with pytest.raises(psycopg.OperationalError):
            stale.execute("SELECT 1")
    assert store.meta(MetaKey.SETTINGS) == "x"


async def test_thread_repeats_a_call_that_was_undone(server: PostgresServer, url: str) -> None:
    database = await StoreThread.open(url)
    first = await database.call(database.store.next_seq, "plan", NOW)
    _hang_up(server, url)
    assert await database.call(database.store.next_seq, "plan", NOW) == first + 1
    await database.close()


async def test_thread_does_not_repeat_a_call_whose_commit_may_have_happened(
    server: PostgresServer, url: str
) -> None:
    database = await StoreThread.open(url)
    engine = database.store._engine  # type: ignore[attr-defined]
    event.listen(engine, "commit", lambda _: _hang_up(server, url), once=True)
    with pytest.raises(StoreFault) as caught:
        await database.call(database.store.add_event, "status", "{}", now_ms=NOW)
    assert not isinstance(caught.value, TransactionUndone)
    assert await database.call(database.store.events_after, 0) == ()
    await database.close()


async def test_thread_outlives_a_restart_of_the_server(
    server: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    away, back = threading.Event(), threading.Event()

    def waits() -> Iterator[float]:
        yield 0.0  # finds the connection broken
        yield 0.0  # finds no server
        away.set()
        back.wait(60)
        yield 0.0

    database = await StoreThread.open(url)
    await database.call(database.store.save_record, record("plan", 1, 0))
    monkeypatch.setattr("ares_coordinator.store.thread.REPEAT_AFTER_S", waits())
    server.stop()
    reading = asyncio.create_task(database.call(database.store.record, "plan", 1, 0))
    await asyncio.to_thread(away.wait, 60)
    server.start()
    back.set()
    assert await reading == record("plan", 1, 0)
    await database.close()


# --- refusals at the door -----------------------------------------------------------------------


def _as_guarded(url: str, password: str) -> str:
    return url.replace("ares@", f"{GUARDED_USER}:{password}@")


@pytest.mark.parametrize("password", ["", "wrong-password"])
def test_wrong_password_is_refused_and_not_repeated(url: str, password: str) -> None:
    with pytest.raises(DatabaseRefused, match=GUARDED_USER) as caught:
        open_store(_as_guarded(url, password))
    assert "PGPASSWORD" in caught.value.hint
    assert "wrong-password" not in _everything(caught.value)


def test_right_password_without_rights_is_refused_with_the_way_out(
    server: PostgresServer, tmp_path: Path
) -> None:
    url = server.fresh(tmp_path, migrated=False)
    server.run("REVOKE CREATE ON SCHEMA public FROM PUBLIC", _name(url))
    with pytest.raises(DatabaseRefused, match="permission denied") as caught:
        open_store(_as_guarded(url, PASSWORD))
    assert "OWNER" in caught.value.hint
    assert PASSWORD not in _everything(caught.value)
    server.run(f"ALTER DATABASE {_name(url)} OWNER TO {GUARDED_USER}")
    server.run(f"GRANT ALL ON SCHEMA public TO {GUARDED_USER}", _name(url))
    open_store(_as_guarded(url, PASSWORD)).close()


def test_database_that_is_not_there_is_refused(server: PostgresServer) -> None:
    with pytest.raises(DatabaseRefused, match="nowhere") as caught:
        open_store(server.url("nowhere"))
    assert "createdb" in caught.value.hint


def test_server_that_is_away_is_a_network_fault(tmp_path: Path) -> None:
    postgres_server()  # without the driver nothing is tried
    with pytest.raises(DatabaseAway) as caught:
        open_store(f"postgresql://user:{PASSWORD}@/name?host={tmp_path}")
    assert PASSWORD not in _everything(caught.value)


def test_option_that_the_driver_does_not_know_is_refused(url: str) -> None:
    with pytest.raises(DatabaseRefused, match="colour"):
        open_store(f"{url}&colour=blue")


def test_driver_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(DatabaseRefused, match="psycopg") as caught:
        open_store("postgresql://user@host/name")
    assert "pip install" in caught.value.hint


def test_database_in_another_encoding_is_refused(server: PostgresServer, url: str) -> None:
    name = f"{_name(url)}_ascii"
    server.run(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0")
    with pytest.raises(DatabaseRefused, match="UTF8 expected"):
        open_store(server.url(name))
    server.run(f"DROP DATABASE {name}")


def test_database_of_another_program_is_refused(server: PostgresServer, tmp_path: Path) -> None:
    url = server.fresh(tmp_path, migrated=False)
    server.run("CREATE TABLE invoices (id bigint)", _name(url))
    with pytest.raises(ConfigFault, match="invoices"):
        open_store(url)


def _everything(fault: AresError) -> str:
    """Return all that a traceback of it would show."""
    texts = []
    error: BaseException | None = fault
    while error is not None:
        texts += [str(error), repr(error), getattr(error, "hint", "")]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return " ".join(texts)
