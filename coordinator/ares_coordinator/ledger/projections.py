"""The stored projections against the postings, one worker after another, in bounded memory.

Pure; reads a `ProjectionReader`, whose rows come sorted by worker.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import groupby
from typing import Protocol, TypeVar

from ares_coordinator.ledger.balances import fold_balances
from ares_coordinator.ledger.findings import Finding, by_commit, by_worker, unreadable
from ares_coordinator.ledger.standings import differing_columns, fold_standings
from ares_coordinator.store.credit_rows import StandingsRow, TotalsRow, Unreadable
from ares_coordinator.store.projection import next_streak
from ares_p2p.domain import Posting, PostingKind, PostingState
from ares_p2p.errors import InternalFault
from ares_p2p.ids import Digest, PeerId

R = TypeVar("R", Posting, TotalsRow, StandingsRow)
MANY = 500  # commits in one question about the lottery
Progress = Callable[[int], None]  # told how many more rows are done


class ProjectionReader(Protocol):
    """One moment of postings, projections and workers, each by worker."""

    def postings_by_worker(self) -> Iterator[Posting | Unreadable]:
        """Yield all postings by worker, each worker's in the order of their ids."""
        ...

    def all_totals(self) -> Iterator[TotalsRow | Unreadable]:
        """Yield the projection by worker and kind."""
        ...

    def all_standings(self) -> Iterator[StandingsRow | Unreadable]:
        """Yield the standings by worker."""
        ...

    def first_seen(self) -> Iterator[tuple[PeerId, int]]:
        """Yield every worker and when it was first seen, by worker."""
        ...

    def streaks_drawn(self, commits: Collection[Digest]) -> Mapping[Digest, int]:
        """Return the streak by which the lottery drew each of these commits, if it did."""
        ...


def verify_projections(reader: ProjectionReader, *, progress: Progress) -> Iterator[Finding]:
    """Yield every row of worker_totals and standings that is not what the postings come to.

    And every row of lottery with another streak than the postings before its round give.

    Args:
        progress: told of every worker's postings.
    """
    merged = heapq.merge(
        _of_worker(0, reader.first_seen()),
        _of_worker(1, ((_worker(row), row) for row in reader.postings_by_worker())),
        _of_worker(2, ((_worker(row), row) for row in reader.all_totals())),
        _of_worker(3, ((_worker(row), row) for row in reader.all_standings())),
        key=lambda item: item[:2],
    )
    streaks: dict[Digest, int] = {}
    for worker, items in groupby(merged, key=lambda item: item[0]):
        rows = [row for _, _, row in items]
        postings = [row for row in rows if isinstance(row, Posting)]
        yield from (unreadable(row) for row in rows if isinstance(row, Unreadable)
                    and row.table != "postings")  # fmt: skip
        totals = [row for row in rows if isinstance(row, TotalsRow)]
        yield from _check_totals(PeerId(worker), postings, totals)
        standings = [row for row in rows if isinstance(row, StandingsRow)]
        first_seen = [row for row in rows if isinstance(row, int)]
        yield from _check_standing(PeerId(worker), postings, standings, first_seen)
        streaks |= _streaks_before(postings)
        if len(streaks) >= MANY:
            yield from _check_streaks(reader, streaks)
            streaks.clear()
        progress(len(postings))
    yield from _check_streaks(reader, streaks)


Item = tuple[str, int, Posting | TotalsRow | StandingsRow | Unreadable | int]


def _of_worker(
    order: int,
    rows: Iterator[tuple[PeerId, int]]
    | Iterator[tuple[PeerId, Posting | Unreadable]]
    | Iterator[tuple[PeerId, TotalsRow | Unreadable]]
    | Iterator[tuple[PeerId, StandingsRow | Unreadable]],
) -> Iterator[Item]:
    for worker, row in rows:
        yield worker, order, row


def _worker(row: Posting | TotalsRow | StandingsRow | Unreadable) -> PeerId:
    return PeerId(str(row.key[0])) if isinstance(row, Unreadable) else row.worker


def _check_totals(
    worker: PeerId, postings: list[Posting], stored: list[TotalsRow]
) -> Iterator[Finding]:
    try:
        folded = {kind: row for (_, kind), row in fold_balances(postings).items()}
    except InternalFault as fault:
        yield by_worker("postings", worker, fault.message)
        return
    by_kind = {row.kind: row for row in stored}
    for kind in PostingKind:
        wanted, found = folded.get(kind), by_kind.get(kind)
        if wanted != found:
            place = f"worker {worker} kind {kind}"
            yield Finding("worker_totals", place, f"{_said(found)}; the postings: {_said(wanted)}")


def _said(row: TotalsRow | None) -> str:
    if row is None:
        return "nothing"
    return (
        f"pending {row.pending_ucredits}, settled {row.settled_ucredits}, "
        f"void {row.void_ucredits}, clawback {row.clawback_ucredits}"
    )


def _check_standing(
    worker: PeerId, postings: list[Posting], stored: list[StandingsRow], first_seen: list[int]
) -> Iterator[Finding]:
    if not stored and postings:
        yield by_worker("standings", worker, f"is missing: there are {len(postings)} postings")
    for row in stored:
        folded = fold_standings(postings).get(worker)
        if folded is None:
            yield by_worker("standings", worker, "stands for a worker without any posting")
            continue
        wrong = [*differing_columns(row, folded)]
        if first_seen != [row.first_seen_ms]:
            wrong.append("first_seen_ms")
        if wrong:
            yield by_worker("standings", worker, f"{', '.join(wrong)} differ from the postings")


def _streaks_before(postings: list[Posting]) -> dict[Digest, int]:
    """Return the training streak of a worker before the pending credit of each of its commits.

    The lottery is held in the very transaction that posts this credit.
    """
    streak, found = 0, dict[Digest, int]()
    for posting in postings:
        if posting.state is PostingState.PENDING and posting.kind is not PostingKind.AUDIT:
            found[posting.commit_sha256] = streak
        streak = next_streak(streak, posting)
    return found


def _check_streaks(reader: ProjectionReader, streaks: Mapping[Digest, int]) -> Iterator[Finding]:
    drawn = reader.streaks_drawn(streaks.keys())
    for commit_sha256, streak in drawn.items():
        if streak != streaks[commit_sha256]:
            text = (
                f"streak is {streak}, the postings before its round give {streaks[commit_sha256]}"
            )
            yield by_commit("lottery", commit_sha256, text)
