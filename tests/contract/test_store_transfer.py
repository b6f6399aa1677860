"""Looking at a database, bringing it up to date, and moving it from SQLite to PostgreSQL."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ares_coordinator.commands.db import app
from ares_coordinator.ledger.balances import verify_balances
from ares_coordinator.store.admin import database_status, migrate_database
from ares_coordinator.store.base import Store
from ares_coordinator.store.revisions import newest_revision
from ares_coordinator.store.rows import MetaKey
from ares_coordinator.store.sql import open_store
from ares_coordinator.store.transfer import Transfer, copy_database
from ares_p2p.datadir import DataDirLock
from ares_p2p.errors import (
    ConfigFault,
    DatabaseRefused,
    DataDirLocked,
    NotInitialised,
    StoreFault,
)
from contract.test_store_parity import QUESTIONS, tell
from storefixtures import TARGETS, postgres_server


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    return TARGETS[request.param](tmp_path)


@pytest.fixture(autouse=True)
def no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARES_DATABASE_URL", raising=False)


def _told(store: Store) -> dict[str, str]:
    return {name: repr(ask(store)) for name, ask in QUESTIONS.items()}


def _copy(source: Path, url: str) -> Transfer:
    return copy_database(source, url, on_progress=lambda *_: None)


# --- looking ------------------------------------------------------------------------------------


def test_reader_looks_and_cannot_write(target: str | Path) -> None:
    store = open_store(target)
    store.set_meta(MetaKey.SETTINGS, "{}")
    reader = open_store(target, read_only=True)
    assert reader.meta(MetaKey.SETTINGS) == "{}"
    with pytest.raises(StoreFault, match=r"read-?only"):
        reader.set_meta(MetaKey.SETTINGS, "other")
    reader.close()
    store.close()


def test_reader_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(NotInitialised):
        open_store(tmp_path / "ares.db", read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_reader_refuses_another_revision(target: str | Path) -> None:
    store = open_store(target)
    with store._write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    store.close()
    with pytest.raises(ConfigFault, match="0001") as caught:
        open_store(target, read_only=True)
    assert "db migrate" in caught.value.hint


def test_status_counts_rows_while_a_coordinator_runs(target: str | Path) -> None:
    store = open_store(target)
    tell(store)
    status = database_status(target)
    rows = dict(status.rows)
    assert (rows["cycles"], rows["commits"], rows["events"]) == (1, 10, 10)
    assert status.revision == status.newest_revision == newest_revision()
    assert status.size_bytes > 100_000
    assert (status.in_use_by is not None) == (status.kind == "postgresql")
    store.close()
    assert database_status(target).in_use_by is None


# --- bringing up to date ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TARGETS)
def test_rehearsal_says_what_a_migration_runs_and_leaves_nothing(kind: str, tmp_path: Path) -> None:
    empty: str | Path = tmp_path / "ares.db"
    if kind == "postgresql":
        empty = postgres_server().fresh(tmp_path, migrated=False)
    rehearsed = migrate_database(empty, rehearsal=True)
    assert (rehearsed.before, rehearsed.after) == (None, newest_revision())
    assert any(one.startswith("CREATE TABLE postings") for one in rehearsed.statements)
    assert any("TRIGGER" in one for one in rehearsed.statements)
    assert database_status(empty).rows == ()
    done = migrate_database(empty)
    assert (done.before, done.after) == (None, newest_revision())
    again = migrate_database(empty)
    assert (again.before, again.after) == (newest_revision(), newest_revision())
    open_store(empty).close()


# --- moving -------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    store = open_store(tmp_path / "ares.db")
    tell(store)
    store.close()
    return tmp_path / "ares.db"


@pytest.fixture
def empty(tmp_path: Path) -> str:
    return postgres_server().fresh(tmp_path, migrated=False)


def test_copy_tells_the_same_and_goes_on(
    source: Path, empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ares_coordinator.store.transfer.BATCH_ROWS", 3)
    seen: list[tuple[str, int, int]] = []
    done = copy_database(source, empty, on_progress=lambda *step: seen.append(step))
    assert dict(done.rows) == dict(database_status(source).rows)
    assert seen[-1][1] == seen[-1][2] == 2 * done.total
    old, new = open_store(source, read_only=True), open_store(empty)
    assert _told(new) == _told(old)
    verify_balances(new)
    last = new.events_after(0)[-1].id
    assert new.add_event("status", "{}", now_ms=1) == last + 1
    old.close()
    new.close()


def test_copied_file_is_sealed(source: Path, empty: str) -> None:
    _copy(source, empty)
    with pytest.raises(DatabaseRefused, match="moved") as caught:
        open_store(source)
    assert "ARES_DATABASE_URL" in caught.value.hint
    with closing(sqlite3.connect(source)) as plain:
        plain.execute("PRAGMA user_version = 0")
    open_store(source).close()


def test_copy_refuses_a_database_with_rows_and_leaves_both(source: Path, empty: str) -> None:
    other = open_store(empty)
    other.set_meta(MetaKey.SETTINGS, "{}")
    other.close()
    with pytest.raises(ConfigFault, match="meta"):
        _copy(source, empty)
    open_store(source).close()
    assert dict(database_status(empty).rows)["cycles"] == 0


def test_copy_that_is_interrupted_leaves_an_empty_database(source: Path, empty: str) -> None:
    def interrupt(_table: str, done: int, total: int) -> None:
        if done > total // 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_database(source, empty, on_progress=interrupt)
    assert {count for _, count in database_status(empty).rows} == {0}
    assert _copy(source, empty).total > 50


def test_copy_that_comes_back_different_is_undone(source: Path, empty: str) -> None:
    migrate_database(empty)
    server = postgres_server()
    name = empty.partition("@/")[2].partition("?")[0]
    server.run(
        "CREATE FUNCTION round_off() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.mean_loss := 0.3333; RETURN NEW; END $$",
        name,
    )
    server.run(
        "CREATE TRIGGER round_off BEFORE INSERT ON evaluations"
        " FOR EACH ROW EXECUTE FUNCTION round_off()",
        name,
    )
    with pytest.raises(StoreFault, match="evaluations"):
        _copy(source, empty)
    assert {count for _, count in database_status(empty).rows} == {0}
    open_store(source).close()


# --- the commands -------------------------------------------------------------------------------


def _json(*arguments: str, **environ: str) -> dict[str, object]:
    result = CliRunner().invoke(app, [*arguments, "--json"], env=environ)
    if result.exception is not None:
        raise result.exception
    answer: dict[str, object] = json.loads(result.stdout)
    return answer


def test_commands_move_a_coordinator_to_postgresql(source: Path, empty: str) -> None:
    folder = ("--data-dir", str(source.parent))
    assert _json("migrate", *folder, "--sql", ARES_DATABASE_URL=empty)["from"] is None
    migrated = _json("migrate", *folder, ARES_DATABASE_URL=empty)
    assert (migrated["from"], migrated["to"]) == (None, newest_revision())
    copied = _json("copy", *folder, "--to", empty)
    status = _json("status", *folder, ARES_DATABASE_URL=empty)
    assert status["kind"] == "postgresql"
    assert status["rows"] == copied["rows"]
    result = CliRunner().invoke(app, ["status", *folder], env={"ARES_DATABASE_URL": empty})
    assert "postings" in result.stdout


def test_commands_wait_for_no_coordinator(source: Path, empty: str) -> None:
    with DataDirLock(source.parent):
        for command in (["copy", "--to", empty], ["migrate"]):
            with pytest.raises(DataDirLocked):
                _json(*command, "--data-dir", str(source.parent), ARES_DATABASE_URL=empty)


def test_copy_command_takes_only_postgresql(source: Path) -> None:
    with pytest.raises(ConfigFault, match="postgresql"):
        _json("copy", "--data-dir", str(source.parent), "--to", "sqlite:///other.db")


def test_status_without_settings_says_how_to_begin(tmp_path: Path) -> None:
    with pytest.raises(NotInitialised):
        _json("status", "--data-dir", str(tmp_path))
