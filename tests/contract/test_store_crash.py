"""A coordinator that is killed anywhere loses nothing, and repeating does nothing twice.

A child process plays a round and kills itself at the n-th statement that it sends to the
database, for many n; the test opens what each of them left, checks it, and plays the round again
to its end. The children are forked by one fresh process without threads. Over SQLite and over
PostgreSQL, whose server finds out by itself that a client is gone.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import event

from ares_coordinator.ledger.balances import balance_of, verify_balances
from ares_coordinator.ledger.postings import settling_postings
from ares_coordinator.store.rows import RoundState
from ares_coordinator.store.sql import SqlStore, open_store
from ares_p2p.ids import blob_id_of
from ledger_samples import seal_round
from store_samples import NOW, begin, commit, contribution, finish_round, judge, open_round, peer
from storefixtures import TARGETS, TEMPLATE, postgres_server

STRIDE = 7  # between the statements at which a child dies; each costs a few fsyncs
WORK = [contribution(commit(1, 0, number), gpu=True) for number in range(3)]


def play(store: SqlStore) -> None:
    """Play a whole round, as the coordinator does again after every start.

    Two contributions are audited, the third one is paid on trust when the round is settled.
    """
    begin(store)
    open_round(store, 1, 0)
    if store.rounds(1)[0].state == RoundState.OPEN:
        for number in range(3):
            store.add_commit(commit(1, 0, number))
    finish_round(store, WORK, 1, 0, undrawn=WORK[2:])
    for work in WORK[:2]:
        judge(store, work)
    pending = store.pending_postings(peer(2))
    seal_round(store, 1, 0, settling_postings(pending, at_ms=NOW))


def play_until(target: str, deadly: int) -> None:
    """Play, and die at the statement number `deadly`, before it runs."""
    store = open_store(target)
    count = 0

    @event.listens_for(store._engine, "before_cursor_execute")
    def count_down(*_: object) -> None:
        nonlocal count
        count += 1
        if count == deadly:
            os.kill(os.getpid(), signal.SIGKILL)

    play(store)
    os._exit(0)  # there was no such statement


def main(place: str) -> None:
    """Make one database for each place of dying, and print where they are.

    Args:
        place: a folder for files, or the URL of an administrator.
    """
    deadly = 1
    while True:
        target = new_database(place, deadly)
        child = os.fork()
        if child == 0:
            play_until(target, deadly)
        _, status = os.waitpid(child, 0)
        print(target)
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            sys.exit(os.waitstatus_to_exitcode(status))
        deadly += STRIDE


def new_database(place: str, number: int) -> str:
    if "://" not in place:
        return f"{place}/{number}.db"
    import psycopg

    name = f"crash_{number}"
    with psycopg.connect(place, autocommit=True) as administrator:
        administrator.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}".encode())
    return place.replace("/postgres?", f"/{name}?")


def check_file(path: str) -> None:
    with closing(sqlite3.connect(path)) as plain:
        assert plain.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert plain.execute("PRAGMA foreign_key_check").fetchall() == []


def check_left_over(target: str) -> None:
    store = open_store(target)
    verify_balances(store)
    for row in store.rounds(1):  # what belongs together is there together
        aggregated = row.state == RoundState.AGGREGATED
        assert store.record("plan", 1, 0) is not None
        assert (store.record("commits", 1, 0) is not None) == (row.state != RoundState.OPEN)
        assert (store.record("manifest", 1, 0) is not None) == aggregated
        assert len(store.contributions(1, 0)) == len(store.lottery(1, 0)) == 3 * aggregated
        assert len(store.audits(1, 0)) == 2 * aggregated
    judged = [row for row in store.audits(1, 0) if row.outcome is not None]
    head, is_settled = store.log_head(), store.record("settlement", 1, 0) is not None
    assert (head is not None) == is_settled
    assert len(store.postings()) == len(store.lottery(1, 0)) + len(judged) + is_settled
    for _ in range(2):
        play(store)
    assert len(store.postings()) == 6
    (head,) = store.log_heads()
    assert (head.size, head.root) == (6, store.log_root(6))
    assert blob_id_of(store.page_bytes(6)) == head.page_blob_id
    assert verify_balances(store) == 3
    for number in range(3):
        balance = balance_of(store.totals(peer(number)))
        assert (balance.settled_ucredits, balance.pending_ucredits) == (1_000_000, 0)
        worker = store.worker(peer(number))
        assert worker is not None
        assert worker.gpu_passes == (number < 2)  # trust is no audit
    store.close()


@pytest.mark.parametrize("kind", TARGETS)
def test_kill_at_any_statement_leaves_a_consistent_database(kind: str, tmp_path: Path) -> None:
    place = postgres_server().url("postgres") if kind == "postgresql" else str(tmp_path)
    tests = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, __file__, place],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), *sys.path])},
        stdout=subprocess.PIPE,
        timeout=100,
        check=True,
    )
    left = done.stdout.decode().split()
    assert len(left) > 12
    for target in left:
        if kind == "sqlite":
            check_file(target)
        check_left_over(target)
    if kind == "postgresql":
        for number in range(len(left)):
            postgres_server().run(f"DROP DATABASE crash_{1 + number * STRIDE}")


if __name__ == "__main__":
    main(sys.argv[1])
