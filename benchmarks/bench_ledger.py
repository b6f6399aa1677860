"""A ledger of a million postings: a page of the leaderboard, proofs, the whole check, appending.

    python -m benchmarks.bench_ledger --postings 1000000 --volunteers 100000 --output ledger.json

Goal: a page of the leaderboard under 50 ms, whichever page. Measured on SQLite, as the API reads
it: the store's method, on the clock. The check reads everything by the log and by the workers;
its facts (signed commits, manifests, settlements) are not in this database. The database is made
in a temporary folder, takes about a gigabyte and is removed.

Seconds of the check are given on the clock and of the processor: see `bench_proofs`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ares_coordinator.ledger.log import verify_log
from ares_coordinator.ledger.projections import verify_projections
from ares_coordinator.store.snapshot import open_snapshot
from ares_coordinator.store.sql import SqlStore, open_store
from ares_p2p.crypto.keys import Identity
from ares_p2p.domain import Posting, PostingKind, PostingState
from ares_p2p.ids import sha256
from benchmarks.bench_proofs import spent
from benchmarks.big_ledger import DAY_MS, NOW_MS, write_ledger

PAGE = 100  # rows; the API's largest
GOAL_MS = 50.0
ASKED = 200  # pages, spread over all


def milliseconds(action: Callable[[], object]) -> float:
    """Return how long something takes on the clock."""
    start = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - start)


def spread(times: list[float]) -> dict[str, float]:
    """Return what a list of milliseconds comes to."""
    ordered = sorted(times)
    return {
        "median_ms": statistics.median(ordered),
        "p95_ms": ordered[int(0.95 * (len(ordered) - 1))],
        "worst_ms": ordered[-1],
    }


def leaderboard(store: SqlStore, volunteers: int) -> dict[str, object]:
    """Measure pages from the first to the last one, by total and by recent credit."""
    pages = max(1, volunteers // PAGE)
    found: dict[str, object] = {"pages": pages, "rows": PAGE}
    for name, by_recent in (("by_total", False), ("by_recent", True)):
        times = []
        for at in range(ASKED):
            offset = PAGE * (at * pages // ASKED)
            rows = []
            times.append(
                milliseconds(
                    lambda offset=offset, by_recent=by_recent, rows=rows: rows.extend(  # type: ignore[misc]
                        store.leaderboard(PAGE, offset=offset, by_recent=by_recent)
                    )
                )
            )
            if len(rows) != min(PAGE, volunteers - offset):
                raise RuntimeError(f"a page at {offset} has {len(rows)} rows")
        found[name] = spread(times) | {"last_page_ms": times[-1], "first_page_ms": times[0]}
    return found


def proofs(store: SqlStore, postings: int) -> dict[str, object]:
    """Measure proofs of the API: spread over the log, each in a transaction of its own."""
    inclusion = [
        milliseconds(lambda at=at: store.inclusion_proof(at * postings // 100, postings))  # type: ignore[misc]
        for at in range(100)
    ]
    consistency = [
        milliseconds(lambda at=at: store.consistency_proof(at * postings // 100, postings))  # type: ignore[misc]
        for at in range(100)
    ]
    return {"inclusion": spread(inclusion), "consistency": spread(consistency)}


def check(path: Path, postings: int) -> dict[str, object]:
    """Measure the parts of `ledger verify` that this database has."""
    who = {"coordinator": Identity.from_seed(bytes(32)).peer_id, "network_id": "benchmark"}
    snapshot = open_snapshot(path)

    def log() -> int:
        _nothing(list(verify_log(snapshot, **who, progress=lambda _: None)))
        return postings

    def projections() -> int:
        _nothing(list(verify_projections(snapshot, progress=lambda _: None)))
        return postings

    found = {"log": spent(log).facts(), "projections": spent(projections).facts()}
    snapshot.close()
    return dict(found)


def _nothing(findings: list[object]) -> None:
    if findings:
        raise RuntimeError(f"the ledger was made wrongly: {findings[0]}")


def appending(store: SqlStore, *, batch: int, singly: int) -> dict[str, object]:
    """Measure new postings at the end of the large log: in batches, and one by one."""
    some = store.postings(limit=batch)

    def further(name: str, count: int) -> list[Posting]:
        return [
            Posting(
                key=f"{name} {at}",
                worker=some[at % len(some)].worker,
                kind=PostingKind.AUDIT,
                state=PostingState.PENDING,
                amount_ucredits=1,
                cycle=1,
                round=0,
                commit_sha256=sha256(name.encode(), b"%d" % at),
                code="",
                at_ms=NOW_MS + DAY_MS,
            )
            for at in range(count)
        ]

    def add_batch() -> int:
        return store.add_postings(further("batch", batch))

    def add_singly() -> int:
        return sum(store.add_postings([one]) for one in further("single", singly))

    return {"batched": spent(add_batch).facts(), "one_by_one": spent(add_singly).facts()}


def run(postings: int, volunteers: int) -> dict[str, object]:
    """Make the ledger and measure; return what goes into the JSON."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "ares.db"
        made_s = milliseconds(lambda: write_ledger(path, postings=postings, volunteers=volunteers))
        size_bytes = path.stat().st_size
        checked = check(path, postings)
        store = open_store(path)
        board = leaderboard(store, volunteers)
        proven = proofs(store, postings)
        counted = spread([milliseconds(lambda: store.tier_counts([0, 10**8, 5 * 10**8, 10**9]))])
        with store._engine.connect() as plain:  # its commits are made up: no row to refer to
            plain.exec_driver_sql("COMMIT")
            plain.exec_driver_sql("PRAGMA foreign_keys = OFF")
            plain.exec_driver_sql("BEGIN")
        added = appending(store, batch=1000, singly=100)
        store.close()
    worst = max(board[order]["p95_ms"] for order in ("by_total", "by_recent"))  # type: ignore[index]
    return {
        "benchmark": "ledger",
        "machine": platform.processor() or platform.machine(),
        "load": os.getloadavg()[0],
        "processors": os.cpu_count(),
        "postings": postings,
        "volunteers": volunteers,
        "database_bytes": size_bytes,
        "made_s": made_s / 1000,
        "goal_page_ms": GOAL_MS,
        "reached": worst < GOAL_MS,
        "leaderboard": board,
        "tier_counts": counted,
        "proofs": proven,
        "verify": checked,
        "append": added,
    }


def main() -> None:
    """Parse the flags, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--postings", type=int, default=1_000_000)
    parser.add_argument("--volunteers", type=int, default=100_000)
    parser.add_argument("--output", type=Path, help="also write the JSON here")
    flags = parser.parse_args()
    result = run(flags.postings, flags.volunteers)
    text = json.dumps(result, indent=2)
    print(text)
    if flags.output:
        flags.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
