"""The part of the store's protocol that pays: rounds, what peers handed in, audits, credit.

The rules of `ares_coordinator.store.base` hold here as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ares_coordinator.store.credit_rows import (
    ActiveWorkerRow,
    CountsRow,
    StandingRow,
    TotalsRow,
    WorkerRow,
    WorkRow,
)
from ares_coordinator.store.rows import (
    AuditRow,
    CommitResult,
    CommitRow,
    ContributionRow,
    EquivocationRow,
    RecordRow,
    RefusalRow,
    RoundCounts,
    RoundRow,
    VerdictRow,
)
from ares_p2p.domain import Posting, PostingKind
from ares_p2p.ids import Digest, PeerId

MAX_REFUSALS_PER_PEER = 16  # rows (codes) per peer and round; further codes are dropped
MAX_REFUSALS_PER_ROUND = 4096  # rows; a crowd of made-up identities cannot fill the disk
MAX_REFUSAL_CHARS = 512  # of a stored message


class RoundStore(Protocol):
    """Rounds, and what the peers handed in."""

    def open_round(
        self,
        cycle: int,
        round_number: int,
        *,
        plan_sha256: Digest,
        state_digest: Digest,
        now_ms: int,
        records: Sequence[RecordRow] = (),
    ) -> RoundRow:
        """Open a round (counted from 0) with its signed plan.

        Raises: InternalFault: the round before is not aggregated or led to another state, or
            this round was opened with another plan.
        """
        ...

    def reopen_round(
        self, cycle: int, round_number: int, *, plan_sha256: Digest, now_ms: int, plan: RecordRow
    ) -> RoundRow:
        """Open a round anew with a later plan: nobody committed under the one before.

        Raises: InternalFault: the round is not open, or somebody committed.
        """
        ...

    def close_round(
        self, cycle: int, round_number: int, *, now_ms: int, records: Sequence[RecordRow] = ()
    ) -> bool:
        """Take no more commits. Returns False when it was closed already."""
        ...

    def finish_round(
        self,
        cycle: int,
        round_number: int,
        *,
        next_state_digest: Digest,
        mean_loss: float | None,
        contributions: Sequence[ContributionRow],
        postings: Sequence[Posting],
        now_ms: int,
        records: Sequence[RecordRow] = (),
    ) -> bool:
        """Store what a closed round came to: contributions, their pending credit, audits to do.

        Every accepted or clipped contribution gets a pending audit.
        Returns: False when it was finished already with the same next state.
        Raises: InternalFault: not closed, or finished with another next state.
        """
        ...

    def set_held_out_loss(self, cycle: int, round_number: int, loss: float) -> None:
        """Note the held-out loss of the state that a round led to."""
        ...

    def current_round(self, cycle: int) -> RoundRow | None:
        """Return the round that is open or closed but not aggregated, if there is one."""
        ...

    def latest_round(self, cycle: int) -> RoundRow | None:
        """Return the newest round of a cycle."""
        ...

    def rounds(self, cycle: int) -> tuple[RoundRow, ...]:
        """Return all rounds of a cycle, oldest first."""
        ...

    def round_counts(self, cycle: int) -> tuple[RoundCounts, ...]:
        """Return the counts of every round of a cycle that got a commit, oldest first."""
        ...

    def add_commit(self, commit: CommitRow, *, ack: RecordRow | None = None) -> CommitResult:
        """Store a commit, its peer as a worker, and our ack.

        Returns: NEW, or DUPLICATE when this very commit is stored (its ack is then, too).
        Raises:
            UnknownRound: there is no such round.
            CommitLate: the round is closed.
            CommitReplayed: another peer, or this one in another round, handed it in.
            Equivocation: the peer committed to something else; both envelopes are kept.
        """
        ...

    def commits(self, cycle: int, round_number: int) -> tuple[CommitRow, ...]:
        """Return a round's commits in the order of their digests."""
        ...

    def equivocations(self, cycle: int, round_number: int) -> tuple[EquivocationRow, ...]:
        """Return the evidence of a round, at most one pair per peer."""
        ...

    def contributions(self, cycle: int, round_number: int) -> tuple[ContributionRow, ...]:
        """Return what the aggregate did with each commit, in the order of their digests."""
        ...

    def add_refusal(
        self, cycle: int, round_number: int, peer: PeerId, *, code: str, message: str, now_ms: int
    ) -> None:
        """Count a refusal. Bounded per peer and per round; what is beyond is dropped."""
        ...

    def refusals(self, cycle: int, round_number: int) -> tuple[RefusalRow, ...]:
        """Return a round's refusals."""
        ...

    def refusals_of_cycle(self, cycle: int, limit: int) -> tuple[RefusalRow, ...]:
        """Return a cycle's newest refusals: by submission, and by the aggregate."""
        ...

    def refusals_of(self, peer: PeerId, limit: int) -> tuple[RefusalRow, ...]:
        """Return a peer's newest refusals."""
        ...

    def pending_audits(self, cycle: int, round_number: int | None = None) -> tuple[AuditRow, ...]:
        """Return the audits still to do, oldest round first."""
        ...

    def audits(self, cycle: int, round_number: int) -> tuple[AuditRow, ...]:
        """Return a round's audits in the order of the commit digests."""
        ...

    def record_verdict(self, verdict: VerdictRow, postings: Sequence[Posting]) -> bool:
        """Close an audit and post what follows from it.

        Returns: False when it has a verdict already: the first one stands, nothing is posted.
        Raises: InternalFault: no such audit.
        """
        ...


class CreditStore(Protocol):
    """The ledger's lines, their projection, and the workers."""

    def add_postings(self, postings: Sequence[Posting]) -> int:
        """Append postings; those whose key is stored are skipped. Returns how many were new.

        Raises: InternalFault: a key that is stored with other content.
        """
        ...

    def postings(self, *, after_id: int = 0, limit: int = 1000) -> tuple[Posting, ...]:
        """Return postings in the order of their ids."""
        ...

    def pending_postings(self, worker: PeerId) -> tuple[Posting, ...]:
        """Return the pending postings of work that nothing has decided yet."""
        ...

    def posting_of(self, commit_sha256: Digest) -> Posting | None:
        """Return the posting that decides about a contribution: the one of the highest state."""
        ...

    def totals(self, worker: PeerId | None = None) -> tuple[TotalsRow, ...]:
        """Return the projection, of one worker or of all, by worker and kind."""
        ...

    def touch_worker(
        self, peer: PeerId, *, now_ms: int, device: str, gpu: bool, software: str
    ) -> None:
        """Note that a peer was there, and with what."""
        ...

    def worker(self, peer: PeerId) -> WorkerRow | None:
        """Return one worker."""
        ...

    def workers(self, *, limit: int = 1000) -> tuple[WorkerRow, ...]:
        """Return workers, the last seen first."""
        ...

    def active_workers(self, limit: int) -> tuple[ActiveWorkerRow, ...]:
        """Return workers with their used contributions, the last seen first."""
        ...

    def counts(self) -> CountsRow:
        """Return how many workers and used contributions there are."""
        ...

    def leaderboard(self, limit: int) -> tuple[StandingRow, ...]:
        """Return those with settled credit: most first; on a tie who was first seen first."""
        ...

    def tier_inputs(self) -> tuple[tuple[int, int], ...]:
        """Return (settled micro-credits, passed audits of GPU work) of every worker."""
        ...

    def recent_work(self, peer: PeerId, limit: int) -> tuple[WorkRow, ...]:
        """Return a worker's newest commits with all that became of them."""
        ...

    def settled_by_kind(self) -> tuple[tuple[PostingKind, int], ...]:
        """Return the settled micro-credits of the whole network, by kind."""
        ...
