"""`ledger verify` over a played history: in order it finds nothing, tampered with it names the row.

Whoever tampers has the whole database: triggers are dropped, foreign keys are off.
"""

from __future__ import annotations

import dataclasses
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ares_coordinator.ledger.balances import fold_balances
from ares_coordinator.ledger.facts import verify_facts
from ares_coordinator.ledger.findings import Finding
from ares_coordinator.ledger.log import verify_log
from ares_coordinator.ledger.projections import verify_projections
from ares_coordinator.ledger.signed import Authority
from ares_coordinator.ledger.standings import fold_standings
from ares_coordinator.ledger.verify import Part, verify_ledger
from ares_coordinator.store.snapshot import Snapshot, open_snapshot
from ares_coordinator.store.sql import open_store
from ares_coordinator.store.sql_base import to_values
from ares_p2p.crypto.merkle import reader_of
from ares_p2p.domain import Posting, PostingState
from ares_p2p.errors import InternalFault
from ares_p2p.proofs.ledger import leaf_of
from payloads import identity
from sim.ledger_books import ANNA, play_books
from sim.samples import COORDINATOR
from sim.session_world import NETWORK

AUTHORITY = Authority(COORDINATOR.peer_id, NETWORK.network_id)
KEYS = {
    "postings": ("id",),
    "worker_totals": ("worker", "kind"),
    "standings": ("worker",),
    "log_nodes": ("level", "position"),
    "log_heads": ("size",),
    "lottery": ("commit_sha256",),
    "audits": ("commit_sha256",),
    "contributions": ("commit_sha256",),
    "commits": ("commit_sha256",),
}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("played")
    play_books(folder)
    return folder / "ares.db"


class Tampered:
    """A copy of the played database in the hands of somebody who may write anything."""

    def __init__(self, played: Path, folder: Path) -> None:
        self.path = folder / "ares.db"
        shutil.copyfile(played, self.path)
        self.plain = sqlite3.connect(self.path)
        triggers = self.plain.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'")
        for (name,) in triggers.fetchall():
            self.plain.execute(f"DROP TRIGGER {name}")

    def do(self, statement: str, *values: Any) -> None:
        """Run a statement that changes something."""
        assert self.plain.execute(statement, values).rowcount > 0, "the test changed nothing"

    def row(self, statement: str, *values: Any) -> tuple[Any, ...]:
        """Return the first row."""
        found: tuple[Any, ...] = self.plain.execute(statement, values).fetchone()
        return found

    def verify(self, part: Part | None = None) -> set[tuple[str, str]]:
        """Return the tables and rows that the check names."""
        self.plain.commit()
        return {(one.table, one.row) for one in verify(self.path, part)}

    def key(self, table: str, where: str, skip: int = 0) -> tuple[Any, ...]:
        """Return the key of a row of a table."""
        found = self.row(
            f"SELECT {', '.join(KEYS[table])} FROM {table} WHERE {where} LIMIT 1 OFFSET {skip}"
        )
        assert found is not None, "the history has no such row"
        return found

    def change(self, table: str, key: tuple[Any, ...], column: str, value: str) -> None:
        """Set one column of one row."""
        same = " AND ".join(f"{name} = ?" for name in KEYS[table])
        self.do(f"UPDATE {table} SET {column} = {value} WHERE {same}", *key)


@pytest.fixture
def tampered(played: Path, tmp_path: Path) -> Iterator[Tampered]:
    made = Tampered(played, tmp_path)
    yield made
    made.plain.close()


def verify(path: Path, part: Part | None = None) -> list[Finding]:
    """Return what the check finds, or one of its parts alone, which is quicker."""
    snapshot = open_snapshot(path)
    try:
        match part:
            case Part.LOG:
                who = {"coordinator": AUTHORITY.coordinator, "network_id": AUTHORITY.network_id}
                return list(verify_log(snapshot, **who, progress=lambda _: None))
            case Part.PROJECTIONS:
                return list(verify_projections(snapshot, progress=lambda _: None))
            case Part.FACTS:
                return list(verify_facts(snapshot, AUTHORITY, progress=lambda _: None))
            case None:
                return list(verify_ledger(snapshot, AUTHORITY, progress=lambda part, _: None))
    finally:
        snapshot.close()


def named(table: str, key: tuple[Any, ...]) -> tuple[str, str]:
    """Return how a finding names a row."""
    if table in ("lottery", "audits", "contributions", "commits"):
        return table, f"commit {key[0].hex()}"
    return table, " ".join(f"{name} {value}" for name, value in zip(KEYS[table], key, strict=True))


def test_history_in_order_has_no_finding_and_every_kind_of_end(played: Path) -> None:
    assert verify(played) == []
    with closing(sqlite3.connect(played)) as plain:
        ends = set(plain.execute("SELECT kind, state, code FROM postings"))
        undrawn = plain.execute("SELECT count(*) FROM lottery WHERE drawn = 0").fetchone()[0]
        heads, newest = plain.execute("SELECT count(*), max(size) FROM log_heads").fetchone()
        size = plain.execute("SELECT max(id) FROM postings").fetchone()[0]
    assert {
        ("cpu_training", "settled", ""),
        ("gpu_training", "settled", ""),
        ("audit", "settled", ""),
        ("cpu_training", "void", "ARES-E071"),
        ("cpu_training", "void", "ARES-E072"),
        ("cpu_training", "void", "ARES-E076"),
        ("cpu_training", "clawback", "ARES-E076"),
    } <= ends
    assert undrawn > 5
    assert heads == 18
    assert newest < size


def test_progress_counts_every_posting_and_round(played: Path) -> None:
    done = dict.fromkeys(Part, 0)

    def count(part: Part, rows: int) -> None:
        done[part] += rows

    snapshot = open_snapshot(played)
    list(verify_ledger(snapshot, AUTHORITY, progress=count))
    postings, _, rounds = snapshot.counts_of_ledger()
    snapshot.close()
    assert done == {Part.LOG: postings, Part.PROJECTIONS: postings, Part.FACTS: rounds}


# --- one column of one row ---------------------------------------------------------------------

CPU = f"kind = 'cpu_training' AND worker <> '{ANNA.peer_id}'"
NOBODY = f"'{identity(99).peer_id}'"
LAST = "level = 0 AND position = (SELECT max(id) - 1 FROM postings)"
OF_ANNA = f"(SELECT commit_sha256 FROM commits WHERE peer = '{ANNA.peer_id}' AND cycle = 3)"

LOG_CHANGES = [
    *(
        ("postings", where, column, value)
        for where in (f"state = 'settled' AND {CPU}", f"state = 'pending' AND {CPU} ORDER BY -id")
        for column, value in [
            ("id", "100000"),
            ("key", "key || 'x'"),
            ("worker", f"'{ANNA.peer_id}'"),
            ("kind", "'gpu_training'"),
            ("state", "'clawback'"),
            ("amount_ucredits", "amount_ucredits + 1"),
            ("cycle", "cycle - 1"),
            ("round", "round - 1"),
            ("commit_sha256", OF_ANNA),
            ("code", "'ARES-E071'"),
            ("at_ms", "at_ms + 1"),
        ]
    ),
    *(
        ("log_nodes", where, column, value)
        for where in (
            "level = 0 AND position = 4",
            LAST,
            "level = 3 AND position = 2",
            "level = (SELECT max(level) FROM log_nodes)",
        )
        for column, value in [
            ("level", "level + 20"),
            ("position", "position + 100000"),
            ("sha256", "(SELECT sha256 FROM log_nodes WHERE level = 1)"),
        ]
    ),
    *(
        ("log_heads", "size > 50", column, value)
        for column, value in [
            ("size", "size - 1"),
            ("root", "page_blob_id"),
            ("cycle", "cycle - 1"),
            ("round", "round + 100"),
            ("envelope", "(SELECT envelope FROM log_heads)"),
            ("page_blob_id", "root"),
            ("page_size_bytes", "page_size_bytes + 1"),
            ("at_ms", "at_ms + 1"),
        ]
    ),
]
PROJECTION_CHANGES = [
    *(
        ("worker_totals", CPU, column, value)
        for column, value in [
            ("worker", NOBODY),
            ("kind", "'audit'"),
            ("pending_ucredits", "pending_ucredits + 1"),
            ("settled_ucredits", "settled_ucredits + 1"),
            ("void_ucredits", "void_ucredits + 1"),
            ("clawback_ucredits", "clawback_ucredits + 1"),
        ]
    ),
    *(
        ("standings", f"worker <> '{ANNA.peer_id}'", column, value)
        for column, value in [
            ("worker", NOBODY),
            ("first_seen_ms", "first_seen_ms - 1"),
            ("settled_ucredits", "settled_ucredits + 1"),
            ("pending_ucredits", "pending_ucredits + 1"),
            ("recent_ucredits", "recent_ucredits + 2"),
            ("recent_ms", "recent_ms + 1"),
            ("recent_score", "recent_score + 0.001"),
            ("streak", "streak + 1"),
            ("last_posting_id", "last_posting_id + 1"),
        ]
    ),
]
WORK = [("commit_sha256", "randomblob(32)"), ("round", "round + 1"), ("peer", NOBODY)]
LOTTERY = [*WORK, ("cycle", "1"), ("streak", "streak + 1"), ("rate", "rate / 2")]
LOTTERY += [("drawn", "1 - drawn"), ("reason", "'alarm'")]
AUDITS = [*WORK, ("code", "'ARES-E079'"), ("shadow", "1")]
FACT_CHANGES: dict[tuple[str, str], list[tuple[str, str]]] = {
    ("lottery", "drawn = 1 AND round > 2"): LOTTERY,
    ("lottery", "drawn = 0"): LOTTERY[1:],
    ("audits", "outcome = 'pass' AND round > 2"): [*AUDITS, ("outcome", "'void'")],
    ("contributions", "status = 'accepted' AND round > 2"): [
        *WORK,
        ("coefficient", "0.5"),
        ("status", "'refused'"),
        ("code", "'ARES-E070'"),
        ("message", "'x'"),
        ("steps", "steps + 1"),
        ("tokens", "tokens + 1"),
        ("mean_loss", "1.0"),
        ("device", "'cuda'"),
        ("gpu", "1 - gpu"),
        ("blob_bytes", "blob_bytes + 1"),
    ],
    ("commits", "round > 2"): [
        ("envelope", "(SELECT envelope FROM commits)"),
        ("peer", NOBODY),
        ("round", "round + 100"),
    ],
}


@pytest.mark.parametrize(
    ("table", "where", "column", "value"),
    [*LOG_CHANGES, *PROJECTION_CHANGES],
    ids=lambda text: str(text)[:24],
)
def test_changed_column_is_found_and_its_row_named(
    tampered: Tampered, table: str, where: str, column: str, value: str
) -> None:
    key = tampered.key(table, where, 1 if "postings" in table else 0)
    tampered.change(table, key, column, value)
    part = Part.LOG if (table, where, column, value) in LOG_CHANGES else Part.PROJECTIONS
    found = tampered.verify(part)
    if (table, column) == ("log_heads", "size"):
        key = (key[0] - 1,)
    assert named(table, key) in found


@pytest.mark.parametrize(("table", "where"), FACT_CHANGES)
def test_changed_columns_of_facts_are_found_and_their_rows_named(
    tampered: Tampered, table: str, where: str
) -> None:
    """All columns of a table at once, each in a row of its own."""
    changes = FACT_CHANGES[table, where]
    keys = [tampered.key(table, where, skip) for skip in range(len(changes))]
    for key, (column, value) in zip(keys, changes, strict=True):
        tampered.change(table, key, column, value)
    found = tampered.verify(Part.FACTS)
    missed = [
        change for key, change in zip(keys, changes, strict=True) if named(table, key) not in found
    ]
    assert missed == []


@pytest.mark.parametrize("outcome", ["void", "fail"])
@pytest.mark.parametrize("change", [("outcome", "'pass'"), ("code", "''"), ("shadow", "1")])
def test_bad_verdict_that_is_made_good_is_found(
    tampered: Tampered, outcome: str, change: tuple[str, str]
) -> None:
    key = tampered.key("audits", f"outcome = '{outcome}'")
    tampered.change("audits", key, *change)
    assert named("audits", key) in tampered.verify(Part.FACTS)


def test_bad_verdict_that_is_made_good_with_its_code_is_found(tampered: Tampered) -> None:
    key = tampered.key("audits", "outcome = 'fail'")
    tampered.change("audits", key, "outcome", "'pass'")
    tampered.change("audits", key, "code", "''")
    assert named("audits", key) in tampered.verify(Part.FACTS), "the signed settlement says fail"


# --- whole rows --------------------------------------------------------------------------------

PARTS = {"postings": Part.LOG, "log_nodes": Part.LOG, "worker_totals": Part.PROJECTIONS}
PARTS |= {"standings": Part.PROJECTIONS}


@pytest.mark.parametrize("table", sorted(KEYS))
@pytest.mark.parametrize("is_newest", [False, True])
def test_deleted_row_is_found_and_named(tampered: Tampered, table: str, is_newest: bool) -> None:
    where = "level = 0" if table == "log_nodes" else "1"
    count = tampered.row(f"SELECT count(*) FROM {table} WHERE {where}")[0]
    key = tampered.key(table, f"{where} ORDER BY rowid", count - 1 if is_newest else count // 2)
    head = tampered.row("SELECT cycle, round FROM log_heads WHERE size = ?", key[0]) or (0, 0)
    same = " AND ".join(f"{name} = ?" for name in KEYS[table])
    tampered.do(f"DELETE FROM {table} WHERE {same}", *key)
    found = tampered.verify(PARTS.get(table, Part.FACTS))
    wanted = named(table, key)
    if table == "log_heads":  # its size went with it; its settlement names its page
        wanted = table, "cycle {} round {}".format(*head)
    assert wanted in found


def test_inserted_posting_is_found_and_named(tampered: Tampered) -> None:
    """With a leaf of its own, nodes, totals and standing, nothing but the facts can tell."""
    postings = read(tampered)
    extra = dataclasses.replace(
        postings[-1], id=len(postings) + 1, key="extra", commit_sha256=bytes(32)
    )
    insert(tampered, extra)
    assert ("postings", f"id {extra.id}") in tampered.verify(Part.LOG)
    recompute(tampered)
    assert tampered.verify(Part.LOG) == tampered.verify(Part.PROJECTIONS) == set()
    assert tampered.verify() == {("postings", f"id {extra.id}")}


def test_two_swapped_postings_are_found_and_named(tampered: Tampered) -> None:
    for before, after in ((40, 0), (41, 40), (0, 41)):
        tampered.change("postings", (before,), "id", str(after))
    found = tampered.verify(Part.LOG)
    assert found == {("postings", "id 40"), ("postings", "id 41")}


def test_posting_that_is_changed_alone_is_the_only_row_named(tampered: Tampered) -> None:
    tampered.change("postings", (77,), "amount_ucredits", "amount_ucredits * 2")
    assert tampered.verify(Part.LOG) == {("postings", "id 77")}


@pytest.mark.parametrize("level", [0, 2, 5])
def test_node_that_is_changed_alone_is_the_only_row_named(tampered: Tampered, level: int) -> None:
    tampered.change("log_nodes", (level, 1), "sha256", "randomblob(32)")
    assert tampered.verify(Part.LOG) == {("log_nodes", f"level {level} position 1")}


# --- who computes everything anew --------------------------------------------------------------


def read(tampered: Tampered) -> list[Posting]:
    tampered.plain.commit()
    snapshot = open_snapshot(tampered.path)
    try:
        return [row for row in snapshot.all_postings() if isinstance(row, Posting)]
    finally:
        snapshot.close()


def insert(tampered: Tampered, posting: Posting) -> None:
    values = to_values(posting)
    names = ", ".join(values)
    marks = ", ".join("?" * len(values))
    tampered.do(f"INSERT INTO postings ({names}) VALUES ({marks})", *values.values())


def replace_rows(tampered: Tampered, table: str, rows: Sequence[dict[str, Any]]) -> None:
    tampered.do(f"DELETE FROM {table}")
    for values in rows:
        marks = ", ".join("?" * len(values))
        tampered.do(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", *values.values())


def recompute(tampered: Tampered) -> None:
    """Make nodes, totals and standings what the changed postings come to."""
    postings = read(tampered)
    read_node = reader_of([leaf_of(posting) for posting in postings])
    rows = [
        {"level": level, "position": at, "sha256": read_node(level, at)}
        for level in range(len(postings).bit_length())
        for at in range(len(postings) >> level)
    ]
    replace_rows(tampered, "log_nodes", rows)
    totals = [to_values(row) for row in fold_balances(postings).values()]
    replace_rows(tampered, "worker_totals", totals)
    seen = dict(tampered.plain.execute("SELECT peer, first_seen_ms FROM workers").fetchall())
    standings = [
        to_values(dataclasses.replace(row, first_seen_ms=seen[row.worker]))
        for row in fold_standings(postings).values()
    ]
    replace_rows(tampered, "standings", standings)


def test_recomputing_without_a_change_changes_nothing(tampered: Tampered) -> None:
    recompute(tampered)
    assert tampered.verify() == set()


def test_sealed_posting_changed_with_everything_anew_is_found_by_the_signed_head(
    tampered: Tampered,
) -> None:
    before, after = tampered.plain.execute(
        "SELECT max(size), (SELECT min(size) FROM log_heads WHERE size >= 77) FROM log_heads "
        "WHERE size < 77"
    ).fetchone()
    tampered.change("postings", (77,), "at_ms", "at_ms + 1")
    recompute(tampered)
    assert tampered.verify() == {("postings", f"id {before + 1} to {after}")}


def test_unsealed_posting_changed_with_everything_anew_is_found_by_the_signed_price(
    tampered: Tampered,
) -> None:
    (newest,) = tampered.row("SELECT max(size) FROM log_heads")
    (mine,) = tampered.row("SELECT max(id) FROM postings")
    assert mine > newest
    tampered.change("postings", (mine,), "amount_ucredits", "amount_ucredits * 100")
    recompute(tampered)
    assert tampered.verify() == {("postings", f"id {mine}")}


def test_void_work_settled_with_everything_anew_is_found(tampered: Tampered) -> None:
    """A settled posting for what failed, and the void one gone: the facts still say no."""
    (number,) = tampered.row("SELECT id FROM postings WHERE code = 'ARES-E071'")
    tampered.change("postings", (number,), "state", "'settled'")
    tampered.change("postings", (number,), "code", "''")
    tampered.change("postings", (number,), "key", "replace(key, 'void', 'settled')")
    recompute(tampered)
    assert ("postings", f"id {number}") in tampered.verify(Part.FACTS)


def test_truncated_ledger_is_found_by_its_heads_and_settlements(tampered: Tampered) -> None:
    """The newest half of the log is gone, everywhere in the ledger's own tables."""
    (size,) = tampered.row("SELECT size FROM log_heads ORDER BY size LIMIT 1 OFFSET 9")
    tampered.do("DELETE FROM postings WHERE id > ?", size)
    tampered.do("DELETE FROM log_heads WHERE size > ?", size)
    recompute(tampered)
    found = tampered.verify()
    assert {table for table, _ in found} >= {"postings", "log_heads"}


def test_ledger_of_another_coordinator_is_found(played: Path) -> None:
    snapshot = open_snapshot(played)
    other = Authority(identity(1).peer_id, NETWORK.network_id)
    found = list(verify_ledger(snapshot, other, progress=lambda part, _: None))
    snapshot.close()
    assert {"cycles", "log_heads", "records"} <= {one.table for one in found}


def test_snapshot_sees_one_moment_and_lets_the_coordinator_write(
    played: Path, tmp_path: Path
) -> None:
    path = tmp_path / "ares.db"
    shutil.copyfile(played, path)
    snapshot, running = open_snapshot(path), open_store(path)
    before = snapshot.log_size()
    (one,) = running.postings(after_id=before - 1)
    running.add_postings(
        [
            dataclasses.replace(one, key=f"more {at}", state=PostingState.VOID, code="x")
            for at in range(3)
        ]
    )
    assert (snapshot.log_size(), running.log_size()) == (before, before + 3)
    assert verify_all(snapshot) == []
    with pytest.raises(InternalFault):
        snapshot.add_postings([one])
    snapshot.close()
    running.close()


def verify_all(snapshot: Snapshot) -> list[Finding]:
    return list(verify_ledger(snapshot, AUTHORITY, progress=lambda part, _: None))
