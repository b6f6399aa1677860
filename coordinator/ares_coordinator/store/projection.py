"""What postings add up to, kept up to date as they come. Pure; `sql_credit` stores it.

A posting moves its piece of work (worker, kind, commit) when it says something higher than every
one before: what the earlier one counted goes, what the new one says comes. `ledger.balances` and
`ledger.standings` compute the same from all postings at once, in another way; a check compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from ares_coordinator.store.credit_rows import StandingsRow, TotalsRow
from ares_coordinator.store.decay import NO_SCORE, faded, recent_score
from ares_p2p.domain import Posting, PostingKind, PostingState
from ares_p2p.ids import Digest, PeerId

Work = tuple[PeerId, PostingKind, Digest]  # one piece of work
Place = tuple[PeerId, PostingKind]  # one row of the totals


def work_of(posting: Posting) -> Work:
    """Return the piece of work that a posting speaks of."""
    return (posting.worker, posting.kind, posting.commit_sha256)


def next_streak(streak: int, posting: Posting) -> int:
    """Return the training streak of a worker after one more posting of it."""
    if posting.state in (PostingState.VOID, PostingState.CLAWBACK):
        return 0
    trained = posting.state is PostingState.SETTLED and posting.kind is not PostingKind.AUDIT
    return streak + trained


def new_standing(worker: PeerId, first_seen_ms: int) -> StandingsRow:
    """Return the standing of a worker before its first posting."""
    return StandingsRow(
        worker=worker,
        first_seen_ms=first_seen_ms,
        settled_ucredits=0,
        pending_ucredits=0,
        recent_ucredits=0.0,
        recent_ms=0,
        recent_score=NO_SCORE,
        streak=0,
        last_posting_id=0,
    )


@dataclass(slots=True)
class Projection:
    """The rows that further postings change. Mutable, for one transaction.

    Args:
        highest: of every piece of work that is about to change, the posting that decides so far.
        totals: the stored rows of the workers and kinds that are about to change.
        standings: the stored rows, or new ones, of the workers.
    """

    highest: dict[Work, Posting]
    totals: dict[Place, TotalsRow] = field(default_factory=dict)
    standings: dict[PeerId, StandingsRow] = field(default_factory=dict)

    def add_all(self, postings: Iterable[Posting]) -> None:
        """Count stored postings, in the order of their ids."""
        for posting in postings:
            self._add(posting)
        for worker, row in self.standings.items():
            score = recent_score(row.recent_ucredits, row.recent_ms)
            self.standings[worker] = replace(row, recent_score=score)

    def _add(self, posting: Posting) -> None:
        work = work_of(posting)
        before = self.highest.get(work)
        moves = before is None or posting.state.rank > before.state.rank
        if moves:
            self.highest[work] = posting
            changes = {posting.state: posting.amount_ucredits}
            if before is not None:
                changes[before.state] = -before.amount_ucredits
            place = (posting.worker, posting.kind)
            row = self.totals.get(place) or TotalsRow(*place, 0, 0, 0, 0)
            self.totals[place] = _changed_totals(row, changes)
        standing = _at_time_of(self.standings[posting.worker], posting)
        if moves:
            standing = _moved(standing, before, -1)
            standing = _moved(standing, posting, 1)
            if standing.settled_ucredits == 0:  # nothing left to fade, not even a rounding error
                standing = replace(standing, recent_ucredits=0.0)
        self.standings[posting.worker] = standing


def _changed_totals(row: TotalsRow, changes: Mapping[PostingState, int]) -> TotalsRow:
    return replace(
        row,
        pending_ucredits=row.pending_ucredits + changes.get(PostingState.PENDING, 0),
        settled_ucredits=row.settled_ucredits + changes.get(PostingState.SETTLED, 0),
        void_ucredits=row.void_ucredits + changes.get(PostingState.VOID, 0),
        clawback_ucredits=row.clawback_ucredits + changes.get(PostingState.CLAWBACK, 0),
    )


def _at_time_of(row: StandingsRow, posting: Posting) -> StandingsRow:
    """Return a standing as of a new posting, which may be older than the newest one."""
    now_ms = max(row.recent_ms, posting.at_ms)
    return replace(
        row,
        recent_ucredits=faded(row.recent_ucredits, from_ms=row.recent_ms, to_ms=now_ms),
        recent_ms=now_ms,
        streak=next_streak(row.streak, posting),
        last_posting_id=posting.id,
    )


def _moved(row: StandingsRow, posting: Posting | None, sign: int) -> StandingsRow:
    """Return a standing with (`sign` 1) or without (-1) what a posting counts for."""
    if posting is None:
        return row
    if posting.state is PostingState.PENDING:
        pending = row.pending_ucredits + sign * posting.amount_ucredits
        return replace(row, pending_ucredits=pending)
    if posting.state is not PostingState.SETTLED:
        return row
    recent = faded(posting.amount_ucredits, from_ms=posting.at_ms, to_ms=row.recent_ms)
    return replace(
        row,
        settled_ucredits=row.settled_ucredits + sign * posting.amount_ucredits,
        recent_ucredits=max(0.0, row.recent_ucredits + sign * recent),
    )
