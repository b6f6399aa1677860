"""Standings are a fold over postings, and this is the fold.

    settled, pending   as in `ledger.balances`, over all kinds of work
    recent             sum over the settled pieces of work of amount * 2^-((t - at) / 30 days), with
                       t the time of the worker's newest posting and `at` that of the posting that
                       settled the work; so settled credit counts half as much after 30 days
    streak             settled postings of training since the last posting that voided or took back,
                       in the order of the log: what the audit lottery goes by

The store keeps the same up to date posting by posting (`store.projection`), in other arithmetic:
recent credit may differ by rounding, far less than a micro-credit; everything else is equal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from ares_coordinator.store.credit_rows import StandingsRow
from ares_coordinator.store.decay import HALF_LIFE_MS, recent_score
from ares_p2p.domain import Posting, PostingKind, PostingState
from ares_p2p.ids import Digest, PeerId

TOLERANCE_UCREDITS = 1.0  # of recent credit; rounding is a thousandth of it
TOLERANCE_SCORE = 1e-6  # a millionth of a doubling


@dataclass(slots=True)
class _Worker:
    """What is known of one worker after some postings."""

    work: dict[tuple[PostingKind, Digest], Posting] = field(default_factory=dict)
    newest_ms: int = 0
    streak: int = 0
    last_posting_id: int = 0


@dataclass(slots=True)
class StandingsFold:
    """Takes postings in the order of their ids; then `rows` says what they come to."""

    _workers: dict[PeerId, _Worker] = field(default_factory=dict)

    def add(self, posting: Posting) -> None:
        """Count one more posting."""
        worker = self._workers.setdefault(posting.worker, _Worker())
        worker.newest_ms = max(worker.newest_ms, posting.at_ms)
        worker.last_posting_id = posting.id
        match posting.state:
            case PostingState.SETTLED:
                worker.streak += posting.kind is not PostingKind.AUDIT
            case PostingState.VOID | PostingState.CLAWBACK:
                worker.streak = 0
            case PostingState.PENDING:
                pass
        work = (posting.kind, posting.commit_sha256)
        before = worker.work.get(work)
        if before is None or posting.state.rank > before.state.rank:
            worker.work[work] = posting

    def rows(self) -> dict[PeerId, StandingsRow]:
        """Return the standings; `first_seen_ms` is 0, no posting says it."""
        return {peer: _row(peer, worker) for peer, worker in self._workers.items()}


def _row(peer: PeerId, worker: _Worker) -> StandingsRow:
    settled = [item for item in worker.work.values() if item.state is PostingState.SETTLED]
    pending = [item for item in worker.work.values() if item.state is PostingState.PENDING]
    recent = math.fsum(
        item.amount_ucredits * math.exp2((item.at_ms - worker.newest_ms) / HALF_LIFE_MS)
        for item in settled
    )
    return StandingsRow(
        worker=peer,
        first_seen_ms=0,
        settled_ucredits=sum(item.amount_ucredits for item in settled),
        pending_ucredits=sum(item.amount_ucredits for item in pending),
        recent_ucredits=recent,
        recent_ms=worker.newest_ms,
        recent_score=recent_score(recent, worker.newest_ms),
        streak=worker.streak,
        last_posting_id=worker.last_posting_id,
    )


def fold_standings(postings: Iterable[Posting]) -> dict[PeerId, StandingsRow]:
    """Return the standings of every worker; `first_seen_ms` is 0, no posting says it."""
    fold = StandingsFold()
    for posting in postings:
        fold.add(posting)
    return fold.rows()


def differing_columns(stored: StandingsRow, folded: StandingsRow) -> tuple[str, ...]:
    """Return the columns in which a stored row is not what the postings come to.

    `first_seen_ms` is not compared. The score must fit the stored recent credit: of very little
    credit, rounding moves the logarithm.
    """
    exact = (
        "worker",
        "settled_ucredits",
        "pending_ucredits",
        "recent_ms",
        "streak",
        "last_posting_id",
    )
    wrong = [name for name in exact if getattr(stored, name) != getattr(folded, name)]
    allowed = max(TOLERANCE_UCREDITS, 1e-9 * folded.recent_ucredits)
    if not abs(stored.recent_ucredits - folded.recent_ucredits) <= allowed:  # also of no number
        wrong.append("recent_ucredits")
    score = recent_score(stored.recent_ucredits, stored.recent_ms)
    if not abs(stored.recent_score - score) <= TOLERANCE_SCORE:
        wrong.append("recent_score")
    return tuple(wrong)
