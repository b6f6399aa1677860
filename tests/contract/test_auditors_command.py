"""`ares-coordinator auditors` on a real database: what it lists, whom it names, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from ares_coordinator.commands.auditors import app
from ares_coordinator.settings import DATABASE_FILE, CoordinatorSettings, write_settings
from ares_coordinator.store.auditor_rows import AssignmentRow, AuditResult, RulingRow
from ares_coordinator.store.sql import open_store
from ares_p2p.errors import ConfigFault
from store_samples import NOW, begin, commit, contribution, peer, play_round, record

AUDITOR, FRIEND = peer(8), peer(9)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A coordinator's data directory with one audit that went wrong."""
    monkeypatch.delenv("ARES_DATABASE_URL", raising=False)
    write_settings(tmp_path, CoordinatorSettings.model_validate({"network": {"name": "net"}}))
    store = open_store(tmp_path / DATABASE_FILE)
    begin(store)
    work = contribution(commit(1, 0, 1))
    play_round(store, 1, 0, [work])
    store.touch_worker(AUDITOR, now_ms=NOW, device="cpu", gpu=False, software="1")
    task = AssignmentRow(work.commit_sha256, AUDITOR, 1, 0, NOW, NOW + 60)
    store.assign_audits(record("audits", 1, 0), [task])
    wrong = RulingRow(work.commit_sha256, AUDITOR, AuditResult.CONTRADICTED, "ARES-E078", "a lie")
    store.rule(wrong, dismissed_ms=NOW)
    store.close()
    return tmp_path


def run(folder: Path, *arguments: str) -> str:
    found = CliRunner().invoke(app, [*arguments, "--data-dir", str(folder)], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.output


def test_list_shows_what_became_of_replays_and_the_next_command(folder: Path) -> None:
    text = run(folder, "list")
    assert "1 contradicted" in text
    assert "dismissed  a lie" in text
    assert f"next: ares-coordinator auditors name {AUDITOR}" in text


def test_named_peer_is_listed_and_no_longer_dismissed(folder: Path) -> None:
    assert "may audit from the next round on" in run(folder, "name", AUDITOR)
    assert json.loads(run(folder, "name", FRIEND, "--json")) == {"peer": FRIEND}
    found = {one["peer"]: one for one in json.loads(run(folder, "list", "--json"))}
    assert found[AUDITOR]["tasks"] == {"contradicted": 1}
    assert found[AUDITOR]["dismissed_ms"] is None
    assert found[FRIEND]["named_ms"] is not None
    assert found[FRIEND]["tasks"] == {}


def test_what_is_no_peer_id_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigFault, match="no peer id"):
        run(folder, "name", "bob")


def test_setting_that_lists_no_peer_id_is_refused() -> None:
    section = {"network": {"name": "net"}, "audit": {"auditors": ["bob"]}}
    with pytest.raises(ValidationError, match="auditors"):
        CoordinatorSettings.model_validate(section)
    listed = {"network": {"name": "net"}, "audit": {"auditors": [AUDITOR]}}
    assert CoordinatorSettings.model_validate(listed).audit.auditors == (AUDITOR,)
