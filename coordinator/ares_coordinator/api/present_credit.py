"""Credit becomes replies: tiers, one worker, the leaderboard. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ares_coordinator.api.reads import MAX_RECENT, CreditsRead, WorkerRead
from ares_coordinator.api.schemas_credit import (
    CreditsReply,
    LeaderboardRow,
    TierInfoReply,
    TierRuleReply,
    WorkerCreditsReply,
    WorkReply,
)
from ares_coordinator.ledger.balances import balance_of
from ares_coordinator.ledger.rewards import credits_of
from ares_coordinator.ledger.tiers import Tier, TierRule, tier_info, tier_of
from ares_coordinator.store.credit_rows import StandingRow, StandingsRow, WorkRow
from ares_coordinator.store.decay import faded
from ares_coordinator.store.rows import RefusalRow
from ares_p2p.domain import EntryStatus

MS_PER_H = 3_600_000


def present_credits(read: CreditsRead, tiers: Sequence[TierRule]) -> CreditsReply:
    """Return the whole network's credit."""
    reached = Counter[Tier]()
    for row in read.tier_counts:
        tier = tier_of(row.minimum_ucredits, audited_gpu=row.audited_gpu, rules=tiers)
        reached[tier] += row.workers
    total = sum(amount for _, amount in read.settled_by_kind)
    return CreditsReply(
        breakdown={rule.tier: reached[rule.tier] for rule in tiers},
        tiers=[
            TierRuleReply(
                tier=rule.tier,
                minimum_credits=credits_of(rule.minimum_ucredits),
                needs_gpu=rule.needs_gpu,
            )
            for rule in tiers
        ],
        total_workers=reached.total(),
        total_credits=credits_of(total),
        total_ucredits=total,
        credits_by_type={
            kind: credits_of(amount) for kind, amount in read.settled_by_kind if amount
        },
    )


def present_leaderboard(
    rows: Sequence[StandingRow], tiers: Sequence[TierRule], *, first_rank: int, now_ms: int
) -> list[LeaderboardRow]:
    """Return a page of the leaderboard in its order; `rank` counts on, also on a tie."""
    return [
        LeaderboardRow(
            rank=rank,
            worker_id=row.peer,
            display_name=row.display_name,
            total_credits=credits_of(row.settled_ucredits),
            pending_credits=credits_of(row.pending_ucredits),
            recent_credits=_recent_credits(row, now_ms),
            tier=tier_of(row.settled_ucredits, audited_gpu=row.gpu_passes > 0, rules=tiers),
            has_gpu=row.gpu_passes > 0,
            last_activity=row.last_seen_ms,
        )
        for rank, row in enumerate(rows, first_rank)
    ]


def _recent_credits(row: StandingRow | StandingsRow, now_ms: int) -> float:
    """Return what is left at the last full hour of credit that halves every 30 days.

    By the hour, so that a page that asks again gets the same bytes, and 304.
    """
    hour_ms = now_ms - now_ms % MS_PER_H
    recent = faded(row.recent_ucredits, from_ms=row.recent_ms, to_ms=hour_ms)
    return credits_of(round(recent))


def present_worker(
    read: WorkerRead, tiers: Sequence[TierRule], *, now_ms: int
) -> WorkerCreditsReply:
    """Return one worker, with the newest rounds and why each paid or did not."""
    balance, worker, standing = balance_of(read.totals), read.worker, read.standing
    info = tier_info(balance.settled_ucredits, audited_gpu=worker.gpu_passes > 0, rules=tiers)
    recent = [*map(_work, read.work), *map(_refusal, read.refusals)]
    recent.sort(key=lambda row: (row.cycle, row.round, row.at), reverse=True)
    return WorkerCreditsReply(
        worker_id=worker.peer,
        display_name=worker.display_name,
        total_credits=credits_of(balance.settled_ucredits),
        settled_credits=credits_of(balance.settled_ucredits),
        pending_credits=credits_of(balance.pending_ucredits),
        void_credits=credits_of(balance.void_ucredits),
        clawback_credits=credits_of(balance.clawback_ucredits),
        recent_credits=0.0 if standing is None else _recent_credits(standing, now_ms),
        streak=0 if standing is None else standing.streak,
        settled_ucredits=balance.settled_ucredits,
        pending_ucredits=balance.pending_ucredits,
        tier=info.tier,
        tier_info=TierInfoReply(
            tier=info.tier,
            next_tier=info.next_tier,
            missing_credits=credits_of(info.missing_ucredits),
            missing_gpu=info.missing_gpu,
        ),
        credits_by_type={kind: credits_of(amount) for kind, amount in balance.by_kind.items()},
        has_gpu_contribution=worker.gpu_passes > 0,
        first_seen=worker.first_seen_ms,
        last_activity=worker.last_seen_ms,
        recent=recent[:MAX_RECENT],
    )


def outcome_of(row: WorkRow) -> str:
    """Return what became of a commit, in one word.

    `waiting`: the round is not aggregated; `refused`: the aggregate did not use it; else the
    state of its credit: `pending`, `settled`, `void`, `clawback`; `unpaid` when there is none.
    """
    if row.status is None:
        return "waiting"
    if row.status == EntryStatus.REFUSED:
        return "refused"
    return row.credit_state or "unpaid"


def _work(row: WorkRow) -> WorkReply:
    return WorkReply(
        cycle=row.cycle,
        round=row.round,
        outcome=outcome_of(row),
        code=row.code,
        message=row.message,
        steps=row.steps,
        tokens=row.tokens,
        credits=credits_of(row.amount_ucredits),
        at=row.received_ms,
    )


def _refusal(row: RefusalRow) -> WorkReply:
    return WorkReply(
        cycle=row.cycle,
        round=row.round,
        outcome="refused",
        code=row.code,
        message=row.message,
        steps=0,
        tokens=0,
        credits=0.0,
        at=row.last_ms,
        count=row.count,
    )
