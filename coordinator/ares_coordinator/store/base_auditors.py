"""The part of the store's protocol that speaks of auditor peers and of decoys.

The rules of `ares_coordinator.store.base` hold here as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ares_coordinator.store.auditor_rows import (
    AssignmentRow,
    AuditorRow,
    DecoyRow,
    ReportResult,
    RulingRow,
    TallyRow,
)
from ares_coordinator.store.rows import RecordRow
from ares_p2p.domain import Posting, PostingState
from ares_p2p.ids import Digest, PeerId


class AuditorStore(Protocol):
    """Tasks of auditors, their reports, who may audit, and decoys."""

    def assign_audits(self, plan: RecordRow, tasks: Sequence[AssignmentRow]) -> bool:
        """Store a signed AuditPlan with its tasks.

        Returns: False when the round has a plan already: that one stands, nothing is written.
        """
        ...

    def assignments(self, cycle: int, round_number: int) -> tuple[AssignmentRow, ...]:
        """Return a round's tasks in the order of the commit digests."""
        ...

    def assignment_of(self, commit_sha256: Digest) -> AssignmentRow | None:
        """Return who was asked to replay a commit, None when nobody was."""
        ...

    def newest_assignments(self, auditor: PeerId, limit: int) -> tuple[AssignmentRow, ...]:
        """Return an auditor's decided tasks, the newest first."""
        ...

    def audit_tallies(self) -> tuple[TallyRow, ...]:
        """Return how the tasks of every auditor ended, by auditor."""
        ...

    def take_report(
        self,
        commit_sha256: Digest,
        auditor: PeerId,
        *,
        envelope: bytes,
        received_ms: int,
        postings: Sequence[Posting],
    ) -> ReportResult:
        """Store a report and the pending credit that comes with it.

        Returns: NEW, or DUPLICATE when these very bytes are stored.
        Raises:
            Equivocation: other bytes are stored for this task.
            ReportLate: the task was decided without it.
            InternalFault: no such task.
        """
        ...

    def rule(
        self,
        ruling: RulingRow,
        postings: Sequence[Posting] = (),
        *,
        dismissed_ms: int | None = None,
    ) -> bool:
        """Store what became of a task, and what follows from it.

        Args:
            dismissed_ms: when it is no auditor any more because of this; None: it stays one.
        Returns: False when the task was decided before: the first decision stands.
        Raises: InternalFault: no such task.
        """
        ...

    def audit_streak(self, auditor: PeerId) -> int:
        """Return an auditor's settled replays since the last one that was not paid."""
        ...

    def unconfirmed_audits(self, auditor: PeerId) -> tuple[Posting, ...]:
        """Return the settled pay of replays since the last one that ours confirmed."""
        ...

    def audit_state(self, commit_sha256: Digest, auditor: PeerId) -> PostingState | None:
        """Return what the ledger says of the pay for one replay, None when there is none."""
        ...

    def auditor(self, peer: PeerId) -> AuditorRow | None:
        """Return what is known of a peer as an auditor, None when nothing is."""
        ...

    def auditors(self) -> tuple[AuditorRow, ...]:
        """Return everybody that was named or dismissed, by peer id."""
        ...

    def name_auditor(self, peer: PeerId, *, now_ms: int) -> None:
        """Let a peer audit whatever its tier, also one that was dismissed."""
        ...

    def begin_decoy(self, decoy: DecoyRow) -> DecoyRow:
        """Store a decoy's identity; return the one that is stored for its round."""
        ...

    def commit_decoy(self, cycle: int, round_number: int, *, commit_sha256: Digest) -> None:
        """Note what a decoy is about to commit, before it does.

        Raises: InternalFault: the round has no decoy.
        """
        ...

    def decoy(self, cycle: int, round_number: int) -> DecoyRow | None:
        """Return the decoy of a round, None when there is none."""
        ...

    def is_decoy(self, commit_sha256: Digest) -> bool:
        """Whether a commit is a forgery of ours."""
        ...
