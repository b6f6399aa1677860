"""What the ledger's part of the database holds, as frozen dataclasses. Free of SQL.

Field names equal column names. Amounts are micro-credits and never negative: what a posting does
to a balance is said by its state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ares_coordinator.store.rows import RecordRow
from ares_p2p.domain import NO_PAGE, AuditOutcome, EntryStatus, PostingKind, PostingState
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
class TierCountRow:
    """How many workers have settled at least `minimum_ucredits`, and less than the next one."""

    minimum_ucredits: int
    audited_gpu: bool
    workers: int


@dataclass(frozen=True, slots=True)
class StandingRow:
    """A worker's place in the leaderboard."""

    peer: PeerId
    settled_ucredits: int
    pending_ucredits: int
    recent_ucredits: float  # as it was at recent_ms
    recent_ms: int
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


@dataclass(frozen=True, slots=True)
class StandingsRow:
    """The projection of all postings of one worker, whatever their kind.

    `recent_ucredits` is settled credit that halves every 30 days, as it was at `recent_ms`, the
    time of the worker's newest posting; `recent_score` orders workers by it at any moment. See
    `ares_coordinator.store.decay`.
    """

    worker: PeerId
    first_seen_ms: int
    settled_ucredits: int
    pending_ucredits: int
    recent_ucredits: float
    recent_ms: int
    recent_score: float
    streak: int  # settled training since the last posting that voided or took back
    last_posting_id: int


@dataclass(frozen=True, slots=True)
class HeadRow:
    """A signed head of the Merkle log, and the page that leads to it."""

    size: int  # postings under it
    root: Digest
    cycle: int
    round: int
    envelope: bytes = field(repr=False)
    page_blob_id: Digest
    page_size_bytes: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class PageToSign:
    """What a settlement is made from: the page it seals, and balances after its postings."""

    blob_id: Digest  # NO_PAGE: nothing was posted since the head before
    size_bytes: int
    settled_ucredits: Callable[[PeerId], int]  # of a worker; to be called while signing only


@dataclass(frozen=True, slots=True)
class SealRow:
    """A settled round: its signed settlement and, unless nothing was posted, head and page."""

    settlement: RecordRow
    head: RecordRow | None = None
    page: Digest = NO_PAGE
    page_data: bytes = field(default=b"", repr=False)  # the blob to serve


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row with a value that no version of this program writes."""

    table: str
    key: tuple[object, ...]
    problem: str
