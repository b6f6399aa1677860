"""The part of the store's protocol that pays: rounds, what peers handed in, audits, credit.

The rules of `ares_coordinator.store.base` hold here as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ares_coordinator.store.credit_rows import (
    ActiveWorkerRow,
    CountsRow,
    HeadRow,
    PageToSign,
    SealRow,
    StandingRow,
    StandingsRow,
    TierCountRow,
    TotalsRow,
    WorkerRow,
    WorkRow,
)
from ares_coordinator.store.rows import (
    AuditRow,
    BacklogRow,
    CommitResult,
    CommitRow,
    ContributionRow,
    DrawReason,
    EquivocationRow,
    LotteryRow,
    RecordRow,
    RefusalRow,
    RoundCounts,
    RoundRow,
    VerdictRow,
)
from ares_p2p.domain import Posting, PostingKind
from ares_p2p.errors import PeerFault
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
        lottery: Sequence[LotteryRow],
        now_ms: int,
        records: Sequence[RecordRow] = (),
    ) -> bool:
        """Store what a closed round came to: contributions, their pending credit, audits to do.

        Args:
            lottery: one row for each contribution that is not refused; drawn ones get an audit.
        Returns: False when it was finished already with the same next state.
        Raises: InternalFault: not closed, finished with another next state, or the lottery is
            about other contributions.
        """
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

    def add_commits(
        self, commits: Sequence[tuple[CommitRow, RecordRow | None]]
    ) -> tuple[CommitResult | PeerFault, ...]:
        """Store many commits with their acks, in one transaction; one after another, as they stand.

        Returns: of each what `add_commit` would return, or the fault that it would raise: one
            that is refused keeps no other one out.
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

    def lottery(self, cycle: int, round_number: int) -> tuple[LotteryRow, ...]:
        """Return a round's lottery in the order of the commit digests."""
        ...

    def order_audit(self, commit_sha256: Digest, *, reason: DrawReason, now_ms: int) -> bool:
        """Have a contribution of the running cycle audited that the lottery left out.

        A round that is not settled waits for it; of a settled one it may take the credit back.
        The caller knows that contribution and state are still held: without them it ends void.
        Returns: False when it is audited already.
        Raises: InternalFault: no such contribution in a lottery.
        """
        ...

    def pending_audits(
        self, cycle: int, round_number: int | None = None, *, limit: int = 100
    ) -> tuple[AuditRow, ...]:
        """Return the first of the audits still to do, oldest round first."""
        ...

    def audits(self, cycle: int, round_number: int) -> tuple[AuditRow, ...]:
        """Return a round's audits in the order of the commit digests."""
        ...

    def audit_backlog(self) -> BacklogRow:
        """Return how many audits are still to do, of all cycles, and since when."""
        ...

    def failed_audit(self, peer: PeerId, *, at_ms: int) -> AuditRow | None:
        """Return the last audit of a peer up to a time that failed and counted."""
        ...

    def unsettled_round(self, cycle: int) -> RoundRow | None:
        """Return the oldest aggregated round of a cycle that has no settlement."""
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

        Each becomes the next leaf of the Merkle log, and totals and standings follow, in the same
        transaction. Ids given by the caller are ignored.
        Raises: InternalFault: a key that is stored with other content. LedgerTampered: the log in
            the database does not end where the postings do.
        """
        ...

    def seal(
        self,
        cycle: int,
        round_number: int,
        postings: Sequence[Posting],
        *,
        sign_head: Callable[[int, Digest], RecordRow],
        sign_settlement: Callable[[PageToSign], RecordRow],
    ) -> SealRow:
        """Settle a round: append its last postings, seal the log, store head and settlement.

        One transaction. When the round has a settlement already, that one comes back with its
        page, nothing is appended and nothing is signed.

        Args:
            sign_head: gets the log's size and root with the new postings in it; returns the
                signed `LedgerHead` of this cycle and round. Not called when nothing was posted
                since the head before: then there is no page either.
            sign_settlement: gets the page; returns the signed `RoundSettlement` that names it.
                Both run in the store's thread and must not call the store.
        Raises: InternalFault, LedgerTampered: as `add_postings`; nothing is stored.
        """
        ...

    def streaks(self, peers: Sequence[PeerId]) -> dict[PeerId, int]:
        """Return the training streak of each peer, 0 for who has no posting.

        In the order of the log: one more for each settled posting of training, 0 again at any
        void or clawback.
        """
        ...

    def audit_streaks(self, auditors: Sequence[PeerId]) -> dict[PeerId, int]:
        """Return how many postings of kind audit were settled since one was void or taken back."""
        ...

    def trusted_since_last_pass(self, worker: PeerId) -> tuple[Posting, ...]:
        """Return what a failed audit takes back: training that was settled without an audit.

        Only work of later rounds than the last one of this worker that passed an audit, that the
        lottery did not draw, and that is settled still. In the order of the log.
        """
        ...

    def log_head(self) -> HeadRow | None:
        """Return the newest signed head of the log."""
        ...

    def log_heads(self, *, after_size: int = 0, limit: int = 100) -> tuple[HeadRow, ...]:
        """Return the signed heads of more than `after_size` postings, the smallest first."""
        ...

    def log_size(self) -> int:
        """Return how many postings the log has, sealed by a head or not yet."""
        ...

    def log_root(self, size: int) -> Digest:
        """Return the root of the log's first `size` postings.

        Raises: IndexError: there are not so many. LedgerTampered: a node of the log is missing.
        """
        ...

    def inclusion_proof(self, index: int, size: int) -> tuple[Digest, ...]:
        """Return the audit path of leaf `index` (posting `index + 1`) under the head of `size`.

        Raises: as `log_root`.
        """
        ...

    def consistency_proof(self, first: int, second: int) -> tuple[Digest, ...]:
        """Return the proof that the log of `first` postings is the start of that of `second`.

        Raises: as `log_root`.
        """
        ...

    def page_bytes(self, size: int) -> bytes:
        """Return the page that leads to the head of `size`, made anew from the postings.

        Raises: IndexError: no head has this size.
        """
        ...

    def postings_of(
        self, worker: PeerId, *, after_id: int = 0, limit: int = 1000
    ) -> tuple[Posting, ...]:
        """Return a worker's postings in the order of their ids."""
        ...

    def newest_postings(self, worker: PeerId, limit: int) -> tuple[Posting, ...]:
        """Return a worker's postings, the newest first."""
        ...

    def postings_of_round(self, cycle: int, round_number: int) -> tuple[Posting, ...]:
        """Return the postings about a round's work, in the order of their ids."""
        ...

    def posting(self, posting_id: int) -> Posting | None:
        """Return one posting."""
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

    def standing(self, worker: PeerId) -> StandingsRow | None:
        """Return one worker's standing, None when it has no posting."""
        ...

    def standings(
        self, *, after: PeerId | None = None, limit: int = 1000
    ) -> tuple[StandingsRow, ...]:
        """Return standings in the order of the workers' ids, all or those after one id."""
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

    def leaderboard(
        self, limit: int, *, offset: int = 0, by_recent: bool = False
    ) -> tuple[StandingRow, ...]:
        """Return those with settled credit: most first; on a tie who was first seen first.

        Args:
            offset: how many to leave out at the top.
            by_recent: order by the credit that halves every 30 days.
        """
        ...

    def tier_counts(self, minimums: Sequence[int]) -> tuple[TierCountRow, ...]:
        """Return how many workers reached which of these settled micro-credits.

        Whether their work on a GPU was audited is told for those above zero only.
        """
        ...

    def recent_work(self, peer: PeerId, limit: int) -> tuple[WorkRow, ...]:
        """Return a worker's newest commits with all that became of them."""
        ...

    def settled_by_kind(self) -> tuple[tuple[PostingKind, int], ...]:
        """Return the settled micro-credits of the whole network, by kind."""
        ...
