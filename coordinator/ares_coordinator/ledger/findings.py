"""What a check of the ledger found: the table, the row, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass

from ares_coordinator.store.credit_rows import Unreadable
from ares_p2p.ids import Digest, PeerId


@dataclass(frozen=True, slots=True)
class Finding:
    """One row that is not what the rest of the ledger, or a signature, says.

    Attributes:
        row: its key, in words: "id 7", "commit 3f2a... ", "worker 12D3KooW... kind audit".
    """

    table: str
    row: str
    problem: str

    def __str__(self) -> str:
        return f"{self.table}, row {self.row}: {self.problem}"


def unreadable(row: Unreadable) -> Finding:
    """Return the finding about a row that cannot be read at all."""
    key = " ".join(value.hex() if isinstance(value, bytes) else str(value) for value in row.key)
    return Finding(row.table, key, f"holds what nothing here writes: {row.problem}")


def by_commit(table: str, commit_sha256: Digest, problem: str) -> Finding:
    """Return a finding about the row of a commit."""
    return Finding(table, f"commit {commit_sha256.hex()}", problem)


def by_id(posting_id: int, problem: str) -> Finding:
    """Return a finding about a posting."""
    return Finding("postings", f"id {posting_id}", problem)


def by_worker(table: str, worker: PeerId, problem: str) -> Finding:
    """Return a finding about the row of a worker."""
    return Finding(table, f"worker {worker}", problem)


def by_node(level: int, position: int, problem: str) -> Finding:
    """Return a finding about a node of the Merkle log."""
    return Finding("log_nodes", f"level {level} position {position}", problem)


def by_size(size: int, problem: str) -> Finding:
    """Return a finding about a signed head."""
    return Finding("log_heads", f"size {size}", problem)


def by_round(table: str, cycle: int, round_number: int, problem: str) -> Finding:
    """Return a finding about a row of a round."""
    return Finding(table, f"cycle {cycle} round {round_number}", problem)
