"""Balances are a fold over postings, and this is the fold.

Each piece of work (worker, kind, commit) counts once, with the amount and in the state of its
highest posting. So any order of the postings gives the same balances, and so do repetitions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from ares_coordinator.store.credit_rows import TotalsRow
from ares_p2p.domain import Posting, PostingKind, PostingState
from ares_p2p.errors import InternalFault
from ares_p2p.ids import PeerId

PAGE = 1000  # postings read at a time: bounds memory of a check, about 300 bytes each


@dataclass(frozen=True, slots=True)
class Balance:
    """What one worker has, over all kinds of work. `by_kind` holds settled credit only."""

    pending_ucredits: int
    settled_ucredits: int
    void_ucredits: int
    clawback_ucredits: int
    by_kind: Mapping[PostingKind, int]


class CreditReader(Protocol):
    """The part of the store that a check of the balances reads."""

    def postings(self, *, after_id: int = 0, limit: int = 1000) -> tuple[Posting, ...]:
        """Return postings in the order of their ids."""
        ...

    def totals(self, worker: PeerId | None = None) -> tuple[TotalsRow, ...]:
        """Return the stored projection."""
        ...


def fold_balances(postings: Iterable[Posting]) -> dict[tuple[PeerId, PostingKind], TotalsRow]:
    """Return the totals of every worker and kind.

    Raises: InternalFault: one key with two contents.
    """
    by_key: dict[str, Posting] = {}
    highest: dict[tuple[PeerId, PostingKind, bytes], Posting] = {}
    for posting in postings:
        known = by_key.setdefault(posting.key, posting)
        if replace(known, id=0, at_ms=0) != replace(posting, id=0, at_ms=0):
            raise InternalFault(f"posting {posting.key} has two contents")
        work = (posting.worker, posting.kind, posting.commit_sha256)
        before = highest.get(work)
        if before is None or posting.state.rank > before.state.rank:
            highest[work] = posting
    totals: dict[tuple[PeerId, PostingKind], TotalsRow] = {}
    for posting in highest.values():
        place = (posting.worker, posting.kind)
        row = totals.get(place, TotalsRow(*place, 0, 0, 0, 0))
        totals[place] = _plus(row, posting.state, posting.amount_ucredits)
    return totals


def _plus(row: TotalsRow, state: PostingState, ucredits: int) -> TotalsRow:
    match state:
        case PostingState.PENDING:
            return replace(row, pending_ucredits=row.pending_ucredits + ucredits)
        case PostingState.SETTLED:
            return replace(row, settled_ucredits=row.settled_ucredits + ucredits)
        case PostingState.VOID:
            return replace(row, void_ucredits=row.void_ucredits + ucredits)
        case PostingState.CLAWBACK:
            return replace(row, clawback_ucredits=row.clawback_ucredits + ucredits)


def balance_of(totals: Iterable[TotalsRow]) -> Balance:
    """Return one worker's balance from its totals."""
    rows = tuple(totals)
    return Balance(
        pending_ucredits=sum(row.pending_ucredits for row in rows),
        settled_ucredits=sum(row.settled_ucredits for row in rows),
        void_ucredits=sum(row.void_ucredits for row in rows),
        clawback_ucredits=sum(row.clawback_ucredits for row in rows),
        by_kind={row.kind: row.settled_ucredits for row in rows if row.settled_ucredits},
    )


def _all_postings(store: CreditReader) -> Iterator[Posting]:
    after_id = 0
    while page := store.postings(after_id=after_id, limit=PAGE):
        yield from page
        after_id = page[-1].id


def verify_balances(store: CreditReader) -> int:
    """Fold all postings and compare with the stored projection.

    To be called in the store's thread, so that no posting comes in between.

    Returns: how many (worker, kind) totals were compared.
    Raises: InternalFault: they differ; the message names the first.
    """
    folded = fold_balances(_all_postings(store))
    stored = {(row.worker, row.kind): row for row in store.totals()}
    for place in sorted(folded.keys() | stored.keys()):
        empty = TotalsRow(*place, 0, 0, 0, 0)
        wanted, found = folded.get(place, empty), stored.get(place, empty)
        if wanted != found:
            raise InternalFault(f"the projection has {found}, the postings say {wanted}")
    return len(folded)
