"""What a peer remembers over a restart, and that the disk may take it away."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from ares_p2p.errors import DiskFull
from ares_p2p.files import NoSpaceLeft, write_atomically
from ares_p2p.ids import sha256
from ares_p2p.rounds.plan import NO_DIGEST
from ares_peer.memory import (
    MAX_REPORTS,
    MAX_UNSETTLED,
    KeptCommit,
    KeptReport,
    SessionMemory,
)
from netfixtures import HandClock

PLAN, COMMIT, BLOB = sha256(b"plan"), sha256(b"commit"), sha256(b"blob")
KEPT = KeptCommit(PLAN, b"envelope", BLOB)


def load(folder: Path, *, network_id: str = "net", clock: HandClock | None = None) -> SessionMemory:
    return SessionMemory.load(
        folder / "session.json", clock=clock or HandClock(), network_id=network_id
    )


def test_everything_survives_a_restart(tmp_path: Path) -> None:
    memory = load(tmp_path)
    memory.remember_commit(COMMIT, KEPT)
    memory.expect_credit((1, 4))
    memory.expect_credit((2, 0))
    memory.remember_states((PLAN, BLOB))
    memory.remember_report(KeptReport(COMMIT, b"report"))
    seq = memory.header().seq
    again = load(tmp_path)
    assert again.last_commit == COMMIT
    assert again.commit_for(PLAN) == KEPT
    assert again.commit_for(BLOB) is None
    assert again.unsettled == ((1, 4), (2, 0))
    assert again.states == (PLAN, BLOB)
    assert again.reports == (KeptReport(COMMIT, b"report"),)
    assert again.header().seq > seq


def test_sequence_never_falls_when_the_clock_does(tmp_path: Path) -> None:
    late = load(tmp_path, clock=HandClock(2_000)).header()
    early = load(tmp_path, clock=HandClock(1_000)).header()
    assert (late.seq, early.seq, early.issued_ms) == (2_000, 2_001, 1_000)


def test_end_of_a_commits_round_is_remembered(tmp_path: Path) -> None:
    memory = load(tmp_path)
    memory.remember_commit(COMMIT, KEPT)
    memory.end_commit(BLOB)  # of another plan
    assert not memory.commit_for(PLAN).is_over  # type: ignore[union-attr]
    memory.end_commit(PLAN)
    kept = load(tmp_path).commit_for(PLAN)
    assert kept is not None
    assert kept.is_over


def test_unsettled_rounds_are_counted_once_and_bounded(tmp_path: Path) -> None:
    memory = load(tmp_path)
    for number in range(MAX_UNSETTLED + 5):
        memory.expect_credit((number // 100, number))
        memory.expect_credit((number // 100, number))
    assert len(memory.unsettled) == MAX_UNSETTLED
    assert memory.unsettled[0] == (0, 5)
    memory.forget_credit((0, 5))
    memory.forget_cycles_before(5)
    assert [number for _, number in load(tmp_path).unsettled] == list(range(500, 517))


def test_memory_of_another_network_is_none_of_ours(tmp_path: Path) -> None:
    load(tmp_path).remember_commit(COMMIT, KEPT)
    other = load(tmp_path, network_id="other")
    assert (other.last_commit, other.kept_commit) == (NO_DIGEST, None)


@pytest.mark.parametrize(
    "change",
    [
        {"seq": "x"},
        {"last_commit": "00"},
        {"commit": {"plan": "zz"}},
        {"commit": []},
        {"unsettled": [[1]]},
        {"states": [5]},
    ],
)
def test_damaged_memory_is_a_fresh_start(tmp_path: Path, change: dict[str, object]) -> None:
    load(tmp_path).remember_commit(COMMIT, KEPT)
    path = tmp_path / "session.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    memory = load(tmp_path)
    assert (memory.last_commit, memory.kept_commit, memory.seq) == (NO_DIGEST, None, 0)
    path.write_bytes(b"\xff{")
    assert load(tmp_path).seq == 0


def test_memory_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    stored = {"network_id": "net", "seq": 7, "last_commit": COMMIT.hex()}
    (tmp_path / "session.json").write_text(json.dumps(stored))
    memory = load(tmp_path)
    assert (memory.seq, memory.last_commit, memory.kept_commit) == (7, COMMIT, None)


def test_commit_is_on_the_disk_before_it_may_be_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    memory = load(tmp_path)
    memory.header()
    assert not synced
    memory.remember_commit(COMMIT, KEPT)
    assert len(synced) == 2  # the file, and its name in the folder


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_named_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(_source: object, _target: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(DiskFull, match=r"no space left to write .*file") as caught:
        write_atomically(path, b"new")
    assert caught.value.hint == DiskFull.default_hint
    assert caught.value.code == DiskFull.code
    assert isinstance(caught.value, OSError)  # who can live without the file goes on as before
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_other_faults_of_the_disk_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(tmp_path / "absent" / "file", b"")
    assert not isinstance(caught.value, NoSpaceLeft)


def test_report_is_remembered_until_it_is_over_and_then_known_to_be(tmp_path: Path) -> None:
    memory = load(tmp_path)
    memory.remember_report(KeptReport(COMMIT, b"report"))
    memory.end_report(BLOB)  # another one
    assert memory.report_on(COMMIT) == KeptReport(COMMIT, b"report")
    memory.end_report(COMMIT)
    again = load(tmp_path)
    assert again.report_on(COMMIT) == KeptReport(COMMIT, b"report", is_over=True)
    assert again.report_on(BLOB) is None


def test_reports_are_bounded_and_each_commit_has_one(tmp_path: Path) -> None:
    memory = load(tmp_path)
    for number in range(MAX_REPORTS + 3):
        memory.remember_report(KeptReport(sha256(b"%d" % number), b"report"))
    memory.remember_report(KeptReport(sha256(b"10"), b"another"))
    assert len(memory.reports) == MAX_REPORTS
    assert memory.report_on(sha256(b"2")) is None
    assert memory.report_on(sha256(b"10")) == KeptReport(sha256(b"10"), b"another")
