"""What only SQLite promises: strict tables, append-only triggers, faults, files, a thread."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from ares_coordinator.store.rows import MetaKey
from ares_coordinator.store.sql import SqlStore, open_store
from ares_coordinator.store.tables import metadata
from ares_coordinator.store.thread import StoreThread
from ares_p2p.errors import ConfigFault, DiskFull, InternalFault, StoreFault
from store_samples import NOW, begin, commit, contribution, open_round, play_round, record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "ares.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqlStore]:
    opened = open_store(path)
    yield opened
    opened.close()


def _schema(connection: sqlite3.Connection) -> dict[str, str]:
    rows = connection.execute(
        "SELECT name, sql FROM sqlite_schema WHERE sql NOT NULL"
        " AND type IN ('table', 'index') AND name NOT LIKE 'sqlite_%'"
    )
    return {name: " ".join(sql.split()) for name, sql in rows}


def test_migrated_schema_is_that_of_tables(store: SqlStore, path: Path, tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'plain.db'}")
    metadata.create_all(engine)
    engine.dispose()
    with (
        closing(sqlite3.connect(path)) as migrated,
        closing(sqlite3.connect(tmp_path / "plain.db")) as plain,
    ):
        found = _schema(migrated)
        assert found.pop("alembic_version")
        assert found == _schema(plain)
        tables = [sql for sql in found.values() if sql.startswith("CREATE TABLE")]
        assert [sql for sql in tables if not sql.endswith("STRICT")] == []


def test_opening_again_keeps_what_is_there(store: SqlStore, path: Path) -> None:
    store.set_meta(MetaKey.NETWORK_NAME, "here")
    store.close()
    again = open_store(f"sqlite:///{path}")
    assert again.meta(MetaKey.NETWORK_NAME) == "here"
    again.close()


def test_pragmas_are_safe(store: SqlStore) -> None:
    with store._read() as connection:
        values = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "recursive_triggers")
        }
    assert values == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "recursive_triggers": 1,
    }


def test_file_is_for_its_owner_only(store: SqlStore, path: Path) -> None:
    assert path.stat().st_mode & 0o077 == 0
    begin(store)
    assert path.with_name("ares.db-wal").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE postings SET amount_ucredits = 1",
        "DELETE FROM postings",
        "REPLACE INTO postings SELECT * FROM postings",
        "UPDATE equivocations SET seen_ms = 1",
        "DELETE FROM equivocations",
        "UPDATE log_nodes SET position = 9",
        "DELETE FROM log_nodes",
    ],
)
def test_append_only_tables_refuse_changes(store: SqlStore, statement: str) -> None:
    begin(store)
    play_round(store, 1, 0, [contribution(commit(1, 0, 1))])
    with store._write() as connection:
        connection.exec_driver_sql(
            "INSERT INTO equivocations SELECT 1, 0, peer, x'01', x'02', 5 FROM workers"
        )
    with pytest.raises(StoreFault, match="append-only"), store._write() as connection:
        connection.exec_driver_sql(statement)
    assert store.postings()[0].amount_ucredits == 1_000_000


def test_checks_of_the_database_hold(store: SqlStore) -> None:
    for statement in (
        "INSERT INTO sequences VALUES ('plan', 'many')",
        "INSERT INTO evaluations VALUES (9, 'before', 1, 2.5, '[]', '[]')",  # no such cycle
        "INSERT INTO records VALUES ('plan', 1, 0, '', 1, x'00', x'00', 1, 1)",
    ):
        with pytest.raises(StoreFault), store._write() as connection:
            connection.exec_driver_sql(statement)


def test_full_disk_is_its_own_fault_and_undone(store: SqlStore) -> None:
    begin(store)
    open_round(store, 1, 0)
    with store._read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    big = "x" * 200_000
    with pytest.raises(DiskFull):
        store.set_meta(MetaKey.SETTINGS, big)
    with store._read() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    assert store.meta(MetaKey.SETTINGS) is None
    store.set_meta(MetaKey.SETTINGS, big)


def test_garbage_is_no_database(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreFault):
        open_store(path)


def test_folder_that_cannot_be_made_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreFault):
        open_store(tmp_path / "file" / "ares.db")


@pytest.mark.parametrize("url", ["mysql://host/name", "://", "nothing://x"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ConfigFault):
        open_store(url)


def test_database_of_a_newer_version_is_refused(store: SqlStore, path: Path) -> None:
    with store._write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    store.close()
    with pytest.raises(ConfigFault, match="9999"):
        open_store(path)


def test_readers_of_another_process_do_not_wait_for_a_writer(store: SqlStore, path: Path) -> None:
    store.set_meta(MetaKey.SETTINGS, "before")
    reader = open_store(path)
    with store._write() as connection:
        connection.exec_driver_sql("UPDATE meta SET value = 'after'")
        assert reader.meta(MetaKey.SETTINGS) == "before"
    assert reader.meta(MetaKey.SETTINGS) == "after"
    reader.close()


async def test_thread_runs_calls_one_after_another_off_the_loop(path: Path) -> None:
    database = await StoreThread.open(path)
    numbers = await asyncio.gather(
        *(database.call(database.store.next_seq, "plan", NOW) for _ in range(20))
    )
    assert numbers == list(range(NOW, NOW + 20))
    assert await database.call(threading.get_ident) != threading.get_ident()
    await database.close()


async def test_thread_passes_faults_on_and_survives_them(path: Path) -> None:
    database = await StoreThread.open(path)
    store = database.store
    await database.call(store.save_record, record("plan", 1, 0, seq=1))
    with pytest.raises(InternalFault):
        await database.call(store.save_record, record("plan", 1, 0, seq=2))
    assert await database.call(store.record, "plan", 1, 0) == record("plan", 1, 0)
    await database.close()


async def test_thread_that_cannot_open_leaves_nothing_behind(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(ConfigFault):
        await StoreThread.open("mysql://host/name")
    for _ in range(100):
        if threading.active_count() == before:
            break
        await asyncio.sleep(0.01)
    assert threading.active_count() == before
