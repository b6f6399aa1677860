"""The replies about credit."""

from __future__ import annotations

from ares_coordinator.api.schemas_base import CamelReply


class TierRuleReply(CamelReply):
    """What a tier asks for."""

    tier: str
    minimum_credits: float
    needs_gpu: bool


class CreditsReply(CamelReply):
    """The whole network's credit. `breakdown` counts workers by tier."""

    breakdown: dict[str, int]
    tiers: list[TierRuleReply]
    total_workers: int
    total_credits: float
    total_ucredits: int
    credits_by_type: dict[str, float]


class TierInfoReply(CamelReply):
    """A worker's tier and what is missing to the next."""

    tier: str
    next_tier: str | None
    missing_credits: float
    missing_gpu: bool


class WorkReply(CamelReply):
    """One round of a worker: what became of it, and why."""

    cycle: int
    round: int
    outcome: str
    code: str
    message: str
    steps: int
    tokens: int
    credits: float
    at: int
    count: int = 1


class WorkerCreditsReply(CamelReply):
    """One worker. `totalCredits` is settled credit: only that counts for a tier.

    `recentCredits` is settled credit that halves every 30 days; `streak` counts the contributions
    that were settled since the last one that was not.
    """

    worker_id: str
    display_name: str | None
    total_credits: float
    settled_credits: float
    pending_credits: float
    void_credits: float
    clawback_credits: float
    recent_credits: float
    streak: int
    settled_ucredits: int
    pending_ucredits: int
    tier: str
    tier_info: TierInfoReply
    credits_by_type: dict[str, float]
    has_gpu_contribution: bool
    first_seen: int
    last_activity: int
    recent: list[WorkReply]


class LeaderboardRow(CamelReply):
    """One line of the leaderboard."""

    rank: int
    worker_id: str
    display_name: str | None
    total_credits: float
    pending_credits: float
    recent_credits: float
    tier: str
    has_gpu: bool
    last_activity: int
