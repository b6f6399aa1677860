"""`ares-coordinator ledger` over a played history: what an operator sees, and gives to others."""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ares_coordinator.commands.ledger import app
from ares_coordinator.store.sql import SqlStore, open_store
from ares_p2p.crypto.keys import save_identity
from ares_p2p.crypto.merkle import check_inclusion
from ares_p2p.errors import ConfigFault, LedgerTampered, UnknownWorker
from ares_p2p.proofs.check_export import ExportCheck
from ares_p2p.proofs.findings import Volunteer
from ares_p2p.proofs.ledger import leaf_of, open_head
from ares_p2p.wire.codec import decode_envelope
from payloads import identity
from sim.ledger_books import AUDITOR, BEN, play_books
from sim.samples import COORDINATOR
from sim.session_world import NETWORK

VOLUNTEER = Volunteer(NETWORK.network_id, COORDINATOR.peer_id, BEN.peer_id)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("played")
    play_books(folder, rounds=6)
    (folder / "config.toml").write_text('[network]\nname = "session-world"\n')
    save_identity(COORDINATOR, folder / "identity.key")
    return folder


@pytest.fixture
def folder(played: Path, tmp_path: Path) -> Path:
    for name in ("ares.db", "config.toml", "identity.key"):
        shutil.copy2(played / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def store(folder: Path) -> Iterator[SqlStore]:
    opened = open_store(folder / "ares.db")
    yield opened
    opened.close()


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--data-dir", str(folder)])


def facts(folder: Path, *arguments: str) -> Any:
    done = run(folder, *arguments, "--json")
    assert done.exception is None, done.output
    return json.loads(done.stdout)


def tamper(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / "ares.db")) as plain:
        for table in ("postings", "log_nodes", "log_heads"):
            plain.execute(f"DROP TRIGGER {table}_no_update")
            plain.execute(f"DROP TRIGGER {table}_no_delete")
        plain.execute(statement)
        plain.commit()


def test_verify_of_a_ledger_in_order_says_what_was_looked_at(folder: Path) -> None:
    found = facts(folder, "verify")
    assert (found["ok"], found["findings"]) == (True, [])
    assert found["coordinator"] == COORDINATOR.peer_id
    assert found["postings"] > found["sealed_postings"] > 0
    assert (found["workers"], found["rounds"]) == (5, 5)
    shown = run(folder, "verify")
    assert shown.exit_code == 0
    assert "Every row is in order" in shown.stdout


def test_verify_works_while_a_coordinator_writes(folder: Path, store: SqlStore) -> None:
    with store._write() as connection:
        connection.exec_driver_sql("UPDATE workers SET last_seen_ms = 1")
        assert facts(folder, "verify")["ok"]


def test_verify_names_the_row_and_ends_with_an_error(folder: Path) -> None:
    tamper(folder, "UPDATE postings SET amount_ucredits = 5 WHERE id = 3")
    done = run(folder, "verify")
    assert isinstance(done.exception, LedgerTampered)
    assert "postings, row id 3: was changed" in done.stdout
    scripted = run(folder, "verify", "--json")
    assert scripted.exit_code == LedgerTampered.exit_code
    found = json.loads(scripted.stdout)
    assert not found["ok"]
    assert ("postings", "id 3") in {(one["table"], one["row"]) for one in found["findings"]}


def test_verify_takes_the_folders_word_for_who_the_coordinator_is(folder: Path) -> None:
    """A database that was signed anew by somebody else is not believed."""
    tamper(folder, f"UPDATE meta SET value = '{identity(1).peer_id}' WHERE key = 'coordinator'")
    found = json.loads(run(folder, "verify", "--json").stdout)
    assert [one["table"] for one in found["findings"]] == ["meta"]


def test_exported_ledger_passes_a_volunteers_check(folder: Path, store: SqlStore) -> None:
    file = folder / "ledger.jsonl"
    told = facts(folder, "export", str(file))
    check = ExportCheck(VOLUNTEER, {}, (), file="ledger.jsonl")
    for line in file.read_bytes().splitlines():
        check.line(line)
    assert check.finish() == ()
    heads = len(store.log_heads())
    assert (check.rows, check.heads_checked) == (store.log_size(), heads)
    assert told["postings"] == store.log_size()
    assert told["lines"] == 1 + store.log_size() + heads


def test_exported_ledger_of_a_changed_database_shows_the_row(folder: Path) -> None:
    tamper(folder, "UPDATE postings SET amount_ucredits = 5 WHERE id = 3")
    file = folder / "ledger.jsonl"
    facts(folder, "export", str(file))
    check = ExportCheck(VOLUNTEER, {}, (), file="ledger.jsonl")
    for line in file.read_bytes().splitlines():
        check.line(line)
    assert any("row 3 " in one.message for one in check.finish())


def test_export_that_cannot_be_complete_leaves_no_file(folder: Path) -> None:
    tamper(folder, "DELETE FROM postings WHERE id = 3")
    file = folder / "ledger.jsonl"
    done = run(folder, "export", str(file))
    assert isinstance(done.exception, LedgerTampered)
    assert "id 3" in done.exception.message
    assert list(folder.glob("*ledger.jsonl*")) == []
    away = run(folder, "export", str(folder / "nowhere" / "ledger.jsonl"))
    assert isinstance(away.exception, ConfigFault)


def test_proof_verifies_under_the_signed_head(folder: Path, store: SqlStore) -> None:
    found = facts(folder, "proof", "7")
    posting = store.posting(7)
    assert posting is not None
    leaf = base64.b64decode(found["leaf"])
    assert leaf == leaf_of(posting)
    envelope = decode_envelope(base64.b64decode(found["head"]))
    head = open_head(envelope, coordinator=COORDINATOR.peer_id, network_id=NETWORK.network_id)
    proof = [bytes.fromhex(node) for node in found["proof"]]
    check_inclusion(leaf, index=6, count=head.size, proof=proof, root=head.root)
    assert "Posting 7 is in the log" in run(folder, "proof", "7").stdout


def test_proof_of_what_is_not_sealed_says_what_to_do(folder: Path, store: SqlStore) -> None:
    for number in (store.log_size(), store.log_size() + 1):
        done = run(folder, "proof", str(number))
        assert isinstance(done.exception, ConfigFault)
        assert done.exception.hint


def test_show_adds_up(folder: Path, store: SqlStore) -> None:
    found = facts(folder, "show", BEN.peer_id)
    standing = store.standing(BEN.peer_id)
    assert standing is not None
    assert found["settled_ucredits"] == standing.settled_ucredits > 0
    assert found["kinds"]["cpu_training"]["settled_ucredits"] == standing.settled_ucredits
    assert found["postings"][0]["id"] == standing.last_posting_id
    assert "settled" in run(folder, "show", AUDITOR.peer_id).stdout
    assert isinstance(run(folder, "show", identity(99).peer_id).exception, UnknownWorker)


def test_command_line_ends_with_the_faults_exit_code(folder: Path) -> None:
    """Through the program itself: the error names its code and what to do next."""
    tamper(folder, "UPDATE postings SET amount_ucredits = 5 WHERE id = 3")
    command = [sys.executable, "-m", "ares_coordinator.cli", "ledger", "verify"]
    done = subprocess.run(
        [*command, "--data-dir", str(folder)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == LedgerTampered.exit_code
    assert "row id 3" in done.stdout
    assert LedgerTampered.code in done.stderr
    assert "next: " in done.stderr
