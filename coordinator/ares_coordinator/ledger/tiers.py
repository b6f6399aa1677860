"""Tiers: what settled credit, and audited work on a GPU, make of a worker, and what they open.

Only settled credit counts. The upper two tiers also want at least one audit of GPU work that
passed; without it a worker stays at the highest tier that does not ask for one.

`BENEFITS` is the one table of what a tier gates; whoever opens a door asks it, and docs/credits.md
shows it (a test compares). Nothing here is for sale, and no tier makes a vote weigh more: what a
contribution counts in a round never depends on its author.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ares_coordinator.ledger.rewards import UCREDITS_PER_CREDIT


class Tier(StrEnum):
    """The tiers, lowest first."""

    FREE = "FREE"
    CONTRIBUTOR = "CONTRIBUTOR"
    TRAINER = "TRAINER"
    CORE = "CORE"


@dataclass(frozen=True, slots=True)
class TierRule:
    """What a tier asks for."""

    tier: Tier
    minimum_ucredits: int
    needs_gpu: bool


def tier_rules(*, contributor: int, trainer: int, core: int) -> tuple[TierRule, ...]:
    """Return the rules of a network from its thresholds in credits.

    Raises: ValueError: they do not rise.
    """
    rules = (
        TierRule(Tier.FREE, 0, needs_gpu=False),
        TierRule(Tier.CONTRIBUTOR, contributor * UCREDITS_PER_CREDIT, needs_gpu=False),
        TierRule(Tier.TRAINER, trainer * UCREDITS_PER_CREDIT, needs_gpu=True),
        TierRule(Tier.CORE, core * UCREDITS_PER_CREDIT, needs_gpu=True),
    )
    minimums = [rule.minimum_ucredits for rule in rules]
    if minimums != sorted(set(minimums)):
        raise ValueError(f"tier thresholds {contributor}, {trainer}, {core} must rise from zero")
    return rules


@dataclass(frozen=True, slots=True)
class TierBenefits:
    """What a tier opens.

    Attributes:
        release_share: how much of the waiting time before the public release of a new adapter
            or export a worker of this tier waits too; 0: none of it.
        holds_seats: whether seats of a full round are held for present workers of this tier
            while lower ones commit.
        requests_per_minute: of the API, for requests that the worker signs.
        may_audit: whether it may replay the work of others, for credit.
    """

    release_share: float
    holds_seats: bool
    requests_per_minute: int
    may_audit: bool


BENEFITS = {
    Tier.FREE: TierBenefits(1.0, holds_seats=False, requests_per_minute=600, may_audit=False),
    Tier.CONTRIBUTOR: TierBenefits(
        1 / 3, holds_seats=True, requests_per_minute=1200, may_audit=False
    ),
    Tier.TRAINER: TierBenefits(1 / 12, holds_seats=True, requests_per_minute=3000, may_audit=False),
    Tier.CORE: TierBenefits(0.0, holds_seats=True, requests_per_minute=6000, may_audit=True),
}
LADDER = tuple(Tier)  # lowest first


DEFAULT_RULES = tier_rules(contributor=100, trainer=500, core=1000)


@dataclass(frozen=True, slots=True)
class TierInfo:
    """A worker's tier, and what is missing to the next one."""

    tier: Tier
    next_tier: Tier | None  # None: there is no higher one
    missing_ucredits: int
    missing_gpu: bool


def tier_of(
    settled_ucredits: int, *, audited_gpu: bool, rules: Sequence[TierRule] = DEFAULT_RULES
) -> Tier:
    """Return the highest tier that settled credit and audited GPU work reach."""
    return _reached(settled_ucredits, audited_gpu, rules)[-1].tier


def tier_info(
    settled_ucredits: int, *, audited_gpu: bool, rules: Sequence[TierRule] = DEFAULT_RULES
) -> TierInfo:
    """Return the tier and what is missing to the next one."""
    reached = _reached(settled_ucredits, audited_gpu, rules)
    above = rules[len(reached) :]
    if not above:
        return TierInfo(reached[-1].tier, None, 0, missing_gpu=False)
    return TierInfo(
        tier=reached[-1].tier,
        next_tier=above[0].tier,
        missing_ucredits=max(0, above[0].minimum_ucredits - settled_ucredits),
        missing_gpu=above[0].needs_gpu and not audited_gpu,
    )


def _reached(
    settled_ucredits: int, audited_gpu: bool, rules: Sequence[TierRule]
) -> Sequence[TierRule]:
    count = 1
    for rule in rules[1:]:
        if settled_ucredits < rule.minimum_ucredits or (rule.needs_gpu and not audited_gpu):
            break
        count += 1
    return rules[:count]
