"""What the ledger's part of the database holds, as frozen dataclasses. Free of SQL.

Field names equal column names. Amounts are micro-credits and never negative: what a posting does
to a balance is said by its state.
"""

from __future__ import annotations

from dataclasses import dataclass

from ares_p2p.domain import AuditOutcome, EntryStatus, PostingKind, PostingState
from ares_p2p.ids import Digest, PeerId


@dataclass(frozen=True, slots=True)
class TotalsRow:
    """The projection of the postings of one worker and kind: micro-credits by state."""

    worker: PeerId
    kind: PostingKind
    pending_ucredits: int
    settled_ucredits: int
    void_ucredits: int
    clawback_ucredits: int


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A peer that worked or said hello."""

    peer: PeerId
    first_seen_ms: int
    last_seen_ms: int
    device: str
    gpu: bool
    software: str
    display_name: str | None = None
    gpu_passes: int = 0  # audits of GPU work that passed


@dataclass(frozen=True, slots=True)
class ActiveWorkerRow:
    """A worker and how many contributions of it were used."""

    peer: PeerId
    gpu: bool
    last_seen_ms: int
    tasks_completed: int


@dataclass(frozen=True, slots=True)
class CountsRow:
    """The network in three numbers."""

    workers: int
    gpu_workers: int
    contributions: int  # that entered an aggregate


@dataclass(frozen=True, slots=True)
class StandingRow:
    """A worker's place in the leaderboard."""

    peer: PeerId
    settled_ucredits: int
    pending_ucredits: int
    gpu_passes: int
    first_seen_ms: int
    last_seen_ms: int
    display_name: str | None


@dataclass(frozen=True, slots=True)
class WorkRow:
    """One round of one worker, with all that became of it."""

    commit_sha256: Digest
    cycle: int
    round: int
    received_ms: int
    status: EntryStatus | None  # None: the round is not aggregated yet
    outcome: AuditOutcome | None  # None: not audited, or not yet
    code: str
    message: str
    steps: int
    tokens: int
    credit_state: PostingState | None  # None: nothing was posted
    amount_ucredits: int
