"""What the lottery draws when a round is finished: pure, from seed, streaks and commits.

The streak of an author is the ledger's fold at the moment when the round's pending credit is
posted. Streaks and the finished round come in one call of the store's thread, so no posting gets
in between: the streak in a settlement is the fold of all postings before the contribution's own
pending one, and its author can recompute streak, rate and draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ares_coordinator.store.rows import ContributionRow, DrawReason, LotteryRow
from ares_p2p.domain import EntryStatus
from ares_p2p.ids import Digest, PeerId
from ares_p2p.rounds.lottery import audit_rate, is_drawn


def draw_lottery(
    contributions: Iterable[ContributionRow],
    *,
    seed: Digest,
    streaks: Mapping[PeerId, int],
    on_trust: bool = True,
) -> tuple[LotteryRow, ...]:
    """Return one row for each contribution that is not refused.

    Args:
        seed: the round's revealed seed.
        streaks: of the authors; who is not in it is a newcomer.
        on_trust: what is not drawn is paid on trust; without it everything else is asked for.
    """
    return tuple(
        _row(work, seed=seed, streak=streaks.get(work.peer, 0), on_trust=on_trust)
        for work in contributions
        if work.status != EntryStatus.REFUSED
    )


def _row(work: ContributionRow, *, seed: Digest, streak: int, on_trust: bool) -> LotteryRow:
    rate = audit_rate(streak)
    drawn = is_drawn(seed, work.commit_sha256, rate)
    return LotteryRow(
        commit_sha256=work.commit_sha256,
        cycle=work.cycle,
        round=work.round,
        peer=work.peer,
        streak=streak,
        rate=rate,
        drawn=drawn or not on_trust,
        reason=DrawReason.LOTTERY if drawn or on_trust else DrawReason.OPERATOR,
    )
