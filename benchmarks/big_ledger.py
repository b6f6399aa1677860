"""A large ledger for measurements, written by bulk insert and not by the way of a coordinator.

Everything that the log and the projections check is right in it (nodes, totals, standings); its
commits are no signed ones, so the facts behind the postings cannot be checked.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from ares_coordinator.ledger.balances import fold_balances
from ares_coordinator.ledger.postings import posting_key
from ares_coordinator.ledger.standings import fold_standings
from ares_coordinator.store.sql import open_store
from ares_p2p.crypto.keys import Identity
from ares_p2p.crypto.merkle import leaf_hash, node_hash
from ares_p2p.domain import Posting, PostingKind, PostingState
from ares_p2p.ids import Digest, PeerId, sha256
from ares_p2p.proofs.ledger import leaf_of

NOW_MS = 1_800_000_000_000
ROUND_MS = 120_000
DAY_MS = 24 * 3600 * 1000
CYCLE = 1


def make_peers(count: int) -> list[PeerId]:
    """Return the ids of so many volunteers."""
    return [Identity.from_seed(sha256(b"volunteer %d" % at)).peer_id for at in range(count)]


def write_ledger(path: Path, *, postings: int, volunteers: int) -> None:
    """Make a database with so many postings, half of them pending and half settled.

    Work is spread unevenly: a few volunteers did much, most a little.
    """
    open_store(path).close()
    peers = make_peers(volunteers)
    works, rounds = postings // 2, max(1, postings // 2 // 100)
    rng = np.random.default_rng(0)
    owners = np.concatenate(  # everybody once, the rest by a power law
        [np.arange(min(volunteers, works)), rng.zipf(1.3, max(0, works - volunteers)) % volunteers]
    )
    rng.shuffle(owners)
    amounts = rng.integers(1_000, 2_000_000, works)
    with closing(sqlite3.connect(path)) as plain:
        for pragma in ("synchronous = OFF", "foreign_keys = OFF", "cache_size = -400000"):
            plain.execute(f"PRAGMA {pragma}")
        plain.execute(
            "INSERT INTO cycles (cycle, phase, created_ms, updated_ms, params_json, secret_seed,"
            " assignment_key, promoted) VALUES (1, 'train', 1, 1, '{}', zeroblob(32),"
            " zeroblob(32), 0)"
        )
        plain.executemany(
            "INSERT INTO rounds VALUES (1, ?, 'aggregated', zeroblob(32), zeroblob(32), 1,"
            " zeroblob(32), 1, 1, NULL, NULL, 0)",
            ((number,) for number in range(rounds)),
        )
        plain.executemany(
            "INSERT INTO workers VALUES (?, ?, ?, 'cuda', 1, '', NULL, ?)",
            ((peer, NOW_MS + at % 1000, NOW_MS, at % 3) for at, peer in enumerate(peers)),
        )
        plain.executemany(
            "INSERT INTO commits VALUES (?, 1, ?, ?, x'00', 1)",
            ((_commit(at), at // 100, peers[owner]) for at, owner in _seats(owners)),
        )
        _write_postings(plain, peers, owners, amounts)
        plain.commit()


def _seats(owners: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield (work, owner) with one work a round for each owner: the rest have no commit row."""
    seen: set[tuple[int, int]] = set()
    for at, owner in enumerate(owners.tolist()):
        if (at // 100, owner) not in seen:
            seen.add((at // 100, owner))
            yield at, owner


def _commit(work: int) -> Digest:
    return sha256(b"commit %d" % work)


def _postings(peers: list[PeerId], owners: np.ndarray, amounts: np.ndarray) -> Iterator[Posting]:
    """Yield postings as rounds come: the pending ones of a round, then all of it settled."""
    number = 0
    for start in range(0, len(owners), 100):
        for state in (PostingState.PENDING, PostingState.SETTLED):
            for work in range(start, min(start + 100, len(owners))):
                number += 1
                peer, kind = peers[owners[work]], PostingKind.GPU_TRAINING
                commit = _commit(work)
                yield Posting(
                    key=posting_key(peer, kind, commit_sha256=commit, state=state),
                    worker=peer,
                    kind=kind,
                    state=state,
                    amount_ucredits=int(amounts[work]),
                    cycle=CYCLE,
                    round=work // 100,
                    commit_sha256=commit,
                    code="",
                    at_ms=NOW_MS + start // 100 * ROUND_MS,
                    id=number,
                )


def _write_postings(
    plain: sqlite3.Connection, peers: list[PeerId], owners: np.ndarray, amounts: np.ndarray
) -> None:
    leaves: list[Digest] = []
    of_worker: dict[PeerId, list[Posting]] = {}

    def rows() -> Iterator[tuple[object, ...]]:
        for one in _postings(peers, owners, amounts):
            leaves.append(leaf_hash(leaf_of(one)))
            of_worker.setdefault(one.worker, []).append(one)
            yield (
                one.id,
                one.key,
                one.worker,
                str(one.kind),
                str(one.state),
                one.amount_ucredits,
                one.cycle,
                one.round,
                one.commit_sha256,
                one.code,
                one.at_ms,
            )

    plain.executemany("INSERT INTO postings VALUES (?,?,?,?,?,?,?,?,?,?,?)", rows())
    plain.executemany("INSERT INTO log_nodes VALUES (?, ?, ?)", _nodes(leaves))
    seen = dict(plain.execute("SELECT peer, first_seen_ms FROM workers"))
    for worker, postings in of_worker.items():
        for total in fold_balances(postings).values():
            plain.execute(
                "INSERT INTO worker_totals VALUES (?, ?, ?, ?, ?, ?)",
                (
                    worker,
                    str(total.kind),
                    total.pending_ucredits,
                    total.settled_ucredits,
                    total.void_ucredits,
                    total.clawback_ucredits,
                ),
            )
        row = fold_standings(postings)[worker]
        plain.execute(
            "INSERT INTO standings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                worker,
                seen[worker],
                row.settled_ucredits,
                row.pending_ucredits,
                row.recent_ucredits,
                row.recent_ms,
                row.recent_score,
                row.streak,
                row.last_posting_id,
            ),
        )


def _nodes(leaves: list[Digest]) -> Iterator[tuple[int, int, Digest]]:
    level, nodes = 0, leaves
    while nodes:
        yield from ((level, at, digest) for at, digest in enumerate(nodes))
        nodes = [node_hash(*nodes[at : at + 2]) for at in range(0, len(nodes) - 1, 2)]
        level += 1
