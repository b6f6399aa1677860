"""What the aggregate does with each contribution of a round: its manifest entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ares_p2p.averaging.aggregate import robust_coefficients
from ares_p2p.averaging.vectors import VectorSource
from ares_p2p.domain import EntryStatus, ManifestEntry
from ares_p2p.errors import (
    ApartFromOthers,
    NonFinite,
    NormClipped,
    OpposesOthers,
    PayloadMalformed,
    PeerFault,
)
from ares_p2p.rounds.commits import SignedCommit, reason_text
from ares_p2p.rounds.manifest import float32
from ares_p2p.training.layout import Layout

MAX_MESSAGE_CHARS = 120  # 64 entries of 250 bytes fit a DHT record
_MEANING = {
    cls.code: text
    for cls, text in (
        (NonFinite, "numbers that are not finite, or too large to square"),
        (PayloadMalformed, "an update of nothing but zeros"),
        (ApartFromOthers, "has far less in common with the others than they with each other"),
        (OpposesOthers, "points against the other contributions of the round"),
        (NormClipped, "longer than twice the median; scaled down to the median"),
    )
}


@dataclass(frozen=True, slots=True)
class Judged:
    """A commit, its manifest entry and, unless it was unusable, its pseudo-gradient."""

    signed: SignedCommit
    entry: ManifestEntry
    vector: VectorSource | None


def judge_contributions(
    commits: Sequence[SignedCommit],
    outcomes: Sequence[VectorSource | PeerFault],
    *,
    layout: Layout,
) -> list[Judged]:
    """Return one judgement per commit, in commit order.

    Args:
        outcomes: per commit its checked contribution, (layout.size,), or why there is none.
    """
    usable = [item for item in outcomes if not isinstance(item, PeerFault)]
    coefficients = iter(robust_coefficients(usable, layout=layout))
    judged = []
    for signed, outcome in zip(commits, outcomes, strict=True):
        if isinstance(outcome, PeerFault):
            entry = entry_of(signed, 0.0, EntryStatus.REFUSED, outcome.code, outcome.message)
            judged.append(Judged(signed, entry, None))
            continue
        found = next(coefficients)
        code = found.reason or ""
        entry = entry_of(
            signed, found.value, EntryStatus(found.status), code, _MEANING.get(code, "")
        )
        judged.append(Judged(signed, entry, outcome))
    return judged


def entry_of(
    signed: SignedCommit, coefficient: float, status: EntryStatus, code: str, message: str
) -> ManifestEntry:
    """Return what a manifest says of a commit, as a record can carry it."""
    text = reason_text(message, limit=MAX_MESSAGE_CHARS)
    return ManifestEntry(signed.sha256, signed.peer, float32(coefficient), status, code, text)
