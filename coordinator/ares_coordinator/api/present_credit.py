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
from ares_coordinator.ledger.tiers import TierRule, tier_info, tier_of
from ares_coordinator.store.credit_rows import StandingRow, WorkRow
from ares_coordinator.store.rows import RefusalRow
from ares_p2p.domain import EntryStatus


def present_credits(read: CreditsRead, tiers: Sequence[TierRule]) -> CreditsReply:
    """Return the whole network's credit."""
    reached = Counter(
        tier_of(settled, audited_gpu=passes > 0, rules=tiers)
        for settled, passes in read.tier_inputs
    )
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
        total_workers=len(read.tier_inputs),
        total_credits=credits_of(total),
        total_ucredits=total,
        credits_by_type={
            kind: credits_of(amount) for kind, amount in read.settled_by_kind if amount
        },
    )


def present_leaderboard(
    rows: Sequence[StandingRow], tiers: Sequence[TierRule]
) -> list[LeaderboardRow]:
    """Return the leaderboard in its order; `rank` counts from 1, also on a tie."""
    return [
        LeaderboardRow(
            rank=rank,
            worker_id=row.peer,
            display_name=row.display_name,
            total_credits=credits_of(row.settled_ucredits),
            pending_credits=credits_of(row.pending_ucredits),
            tier=tier_of(row.settled_ucredits, audited_gpu=row.gpu_passes > 0, rules=tiers),
            has_gpu=row.gpu_passes > 0,
            last_activity=row.last_seen_ms,
        )
        for rank, row in enumerate(rows, 1)
    ]


def present_worker(read: WorkerRead, tiers: Sequence[TierRule]) -> WorkerCreditsReply:
    """Return one worker, with the newest rounds and why each paid or did not."""
    balance, worker = balance_of(read.totals), read.worker
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
