"""How many commits a coordinator takes in a second: decoded, verified, stored.

    python -m benchmarks.bench_proofs --commits 4000 --output proofs.json

A commit is an envelope with a signed `Commit`, as it comes in from a peer. It is decoded (bounds,
protobuf, ranges of all fields), its signature and key are verified (libsodium), and it is stored
with its peer as a worker (SQLite, `synchronous=FULL`), in batches and one by one. Goal: 5,000 a
second on one core, batched.

Seconds are given twice: on the clock, and of the processor (ours alone, whatever else runs on the
machine; waiting for the disk is not in it). `cold` means that every key is seen the first time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ares_coordinator.store.rows import CommitRow
from ares_coordinator.store.sql import SqlStore, open_store
from ares_p2p.crypto.keys import Identity, _has_prime_order
from ares_p2p.domain import Commit, Header
from ares_p2p.ids import sha256
from ares_p2p.rounds.commits import SignedCommit, open_commit
from ares_p2p.wire.codec import decode_envelope, encode_envelope, seal

NETWORK = "benchmark"
NOW_MS = 1_800_000_000_000
PEERS = 1000
BATCH = 500
GOAL = 5000


@dataclass(frozen=True, slots=True)
class Spent:
    """What something took."""

    items: int
    clock_s: float
    processor_s: float

    def facts(self) -> dict[str, float]:
        """Return rates for the JSON."""
        return {
            "items": self.items,
            "per_second": self.items / self.clock_s,
            "per_processor_second": self.items / self.processor_s,
            "microseconds": 1e6 * self.processor_s / self.items,
        }


def spent(action: Callable[[], int], *, repeats: int = 1) -> Spent:
    """Return the quickest of some runs of something that returns how many items it did."""
    best: Spent | None = None
    for _ in range(repeats):
        clock, processor = time.perf_counter(), time.process_time()
        items = action()
        found = Spent(items, time.perf_counter() - clock, time.process_time() - processor)
        if best is None or found.processor_s < best.processor_s:
            best = found
    assert best is not None
    return best


def make_commits(count: int) -> list[bytes]:
    """Return envelopes of `PEERS` peers, one a round of each."""
    peers = [Identity.from_seed(sha256(b"peer %d" % number)) for number in range(PEERS)]
    envelopes = []
    for number in range(count):
        who, round_number = peers[number % PEERS], number // PEERS
        commit = Commit(
            header=Header(NETWORK, 1, round_number, number + 1, NOW_MS),
            plan_sha256=sha256(b"plan"),
            state=sha256(b"state"),
            blob_id=sha256(b"blob %d" % number),
            blob_size_bytes=1_000_000,
            steps=10,
            tokens=20_480,
            first_example=number,
            previous_commit_sha256=sha256(b"before"),
            mean_loss=2.5,
            device="cuda: NVIDIA H100 80GB HBM3",
            profile="nf4 bfloat16 sdpa torch2.13",
        )
        envelopes.append(encode_envelope(seal(who, commit)))
    return envelopes


def opened(data: bytes) -> SignedCommit:
    """Return a commit that came in, decoded and verified."""
    return open_commit(decode_envelope(data), network_id=NETWORK)


def row_of(signed: SignedCommit, data: bytes) -> CommitRow:
    """Return what is stored of a commit."""
    header = signed.commit.header
    return CommitRow(signed.sha256, header.cycle, header.round, signed.peer, data, NOW_MS)


def new_store(folder: Path, name: str, rounds: int) -> SqlStore:
    """Return a store whose rounds are all open, as no coordinator has them."""
    store = open_store(folder / name)
    store.begin_cycle(1, now_ms=NOW_MS, secret_seed=bytes(32), assignment_key=bytes(32))
    opened = "INSERT INTO rounds VALUES (1, ?, 'open', ?, ?, 1, NULL, NULL, NULL, NULL, NULL, 0)"
    with store._write() as connection:
        for number in range(rounds):
            connection.exec_driver_sql(opened, (number, bytes(32), bytes(32)))
    return store


def run(count: int, *, singly: int, repeats: int) -> dict[str, object]:
    """Measure each step, and the whole way; return what goes into the JSON."""
    envelopes = make_commits(count)
    rounds = -(-count // PEERS)
    results: dict[str, Spent] = {}

    def decode() -> int:
        return len([decode_envelope(data) for data in envelopes])

    def verify() -> int:
        return len([opened(data) for data in envelopes])

    def verify_cold() -> int:
        _has_prime_order.cache_clear()
        return len([opened(data) for data in envelopes[:PEERS]])

    results["decode_envelope"] = spent(decode, repeats=repeats)
    results["decode_and_verify_cold"] = spent(verify_cold, repeats=repeats)
    results["decode_and_verify"] = spent(verify, repeats=repeats)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [row_of(opened(data), data) for data in envelopes]
        store = new_store(folder, "rows.db", rounds)
        results["store_batched"] = spent(lambda: _store(store, rows))
        store.close()

        single = new_store(folder, "single.db", rounds)
        results["all_one_by_one"] = spent(lambda: _take_singly(single, envelopes[:singly]))
        single.close()

        for number in range(repeats):
            fresh = new_store(folder, f"whole-{number}.db", rounds)
            found = spent(lambda store=fresh: _take_batched(store, envelopes))  # type: ignore[misc]
            best = results.get("all_batched")
            if best is None or found.processor_s < best.processor_s:
                results["all_batched"] = found
            fresh.close()
    return {
        "benchmark": "proofs",
        "machine": platform.processor() or platform.machine(),
        "load": os.getloadavg()[0],
        "processors": os.cpu_count(),
        "commits": count,
        "commit_bytes": len(envelopes[0]),
        "batch": BATCH,
        "goal_per_processor_second": GOAL,
        "reached": results["all_batched"].facts()["per_processor_second"] >= GOAL,
        "results": {name: one.facts() for name, one in results.items()},
    }


def _store(store: SqlStore, rows: list[CommitRow]) -> int:
    for start in range(0, len(rows), BATCH):
        store.add_commits([(row, None) for row in rows[start : start + BATCH]])
    return len(rows)


def _take_batched(store: SqlStore, envelopes: list[bytes]) -> int:
    for start in range(0, len(envelopes), BATCH):
        batch = envelopes[start : start + BATCH]
        store.add_commits([(row_of(opened(data), data), None) for data in batch])
    return len(envelopes)


def _take_singly(store: SqlStore, envelopes: list[bytes]) -> int:
    for data in envelopes:
        store.add_commit(row_of(opened(data), data))
    return len(envelopes)


def main() -> None:
    """Parse the flags, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commits", type=int, default=4000)
    parser.add_argument("--singly", type=int, default=300, help="how many to store one by one")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="also write the JSON here")
    flags = parser.parse_args()
    result = run(flags.commits, singly=flags.singly, repeats=flags.repeats)
    text = json.dumps(result, indent=2)
    print(text)
    if flags.output:
        flags.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
