"""A round's judgement without some of its contributions, and what becomes of theirs. Pure.

What had been refused stays refused: the votes of the round may come out otherwise once a liar is
gone, but nobody's work is brought back that was told it does not count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from ares_coordinator.judge import MAX_MESSAGE_CHARS, Judged, judge_contributions
from ares_p2p.averaging.vectors import Vector, VectorSource
from ares_p2p.domain import EntryStatus, ManifestEntry
from ares_p2p.errors import PoisonFound, RoundSetAside
from ares_p2p.ids import Digest
from ares_p2p.rounds.commits import reason_text
from ares_p2p.training.layout import Layout


def suspects_of(judged: Sequence[Judged]) -> list[Digest]:
    """Return the commits that count, the most suspicious first.

    The robust mean has an opinion already: it gives less weight to what is far from the rest.
    """
    used = [item.entry for item in judged if item.entry.coefficient]
    ranked = sorted(used, key=lambda entry: (entry.coefficient, entry.commit_sha256))
    return [entry.commit_sha256 for entry in ranked]


def without(
    judged: Sequence[Judged], removed: Collection[Digest], *, layout: Layout, message: str = ""
) -> list[Judged]:
    """Return the judgement of the same commits with `removed` taken out, in commit order.

    Args:
        message: of those that are taken out.
    """
    used = [item for item in judged if item.entry.coefficient]
    fault = PoisonFound(message)
    outcomes = [fault if item.signed.sha256 in removed else _vector(item) for item in used]
    again = judge_contributions([item.signed for item in used], outcomes, layout=layout)
    by_commit: Mapping[Digest, Judged] = {item.signed.sha256: item for item in again}
    return [by_commit.get(item.signed.sha256, item) for item in judged]


def used_vectors(judged: Sequence[Judged]) -> list[tuple[Vector | VectorSource, float]]:
    """Return (pseudo-gradient, coefficient) of what counts, in commit order."""
    return [(_vector(item), item.entry.coefficient) for item in judged if item.entry.coefficient]


def set_aside(judged: Sequence[Judged], *, corrected_round: int) -> list[Judged]:
    """Return the judgement of a round that is not used: what is not refused is paid all the same.

    Args:
        corrected_round: the round before, counted from 0; people count from 1.
    """
    text = f"round {corrected_round + 1} was corrected, and this was made from its old state"
    return [
        dataclasses.replace(item, entry=_unused(item.entry, RoundSetAside.code, text))
        if item.entry.status is not EntryStatus.REFUSED
        else item
        for item in judged
    ]


def paid_although_poison(judged: Sequence[Judged]) -> list[Judged]:
    """Return the judgement with what was taken out accepted and unused: an audit decides its pay."""
    return [
        dataclasses.replace(item, entry=_unused(item.entry, PoisonFound.code, item.entry.message))
        if item.entry.code == PoisonFound.code
        else item
        for item in judged
    ]


def reason_of(*, before: float, bad: float, after: float, removed: int) -> str:
    """Return why something was taken out, with the numbers: held-out losses in nats a token."""
    them = "it" if removed == 1 else f"these {removed}"
    text = f"with {them} the round took the held-out loss from {before:.4f} to {bad:.4f}"
    return reason_text(f"{text}, without {them} to {after:.4f}", limit=MAX_MESSAGE_CHARS)


def _unused(entry: ManifestEntry, code: str, message: str) -> ManifestEntry:
    return dataclasses.replace(
        entry, coefficient=0.0, status=EntryStatus.ACCEPTED, code=code, message=message
    )


def _vector(item: Judged) -> VectorSource:
    if item.vector is None:
        raise ValueError(f"commit {item.signed.sha256.hex()[:12]} counts without a contribution")
    return item.vector
