"""Tiers: thresholds, the GPU, and what is missing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ares_coordinator.ledger.tiers import (
    Tier,
    TierInfo,
    tier_info,
    tier_of,
    tier_rules,
)

CREDIT = 1_000_000


@pytest.mark.parametrize(
    ("settled", "gpu", "tier"),
    [
        (0, False, Tier.FREE),
        (0, True, Tier.FREE),
        (100 * CREDIT - 1, True, Tier.FREE),
        (100 * CREDIT, False, Tier.CONTRIBUTOR),
        (500 * CREDIT - 1, True, Tier.CONTRIBUTOR),
        (500 * CREDIT, True, Tier.TRAINER),
        (500 * CREDIT, False, Tier.CONTRIBUTOR),
        (1000 * CREDIT - 1, True, Tier.TRAINER),
        (1000 * CREDIT, True, Tier.CORE),
        (10**15, False, Tier.CONTRIBUTOR),  # no credit replaces audited GPU work
    ],
)
def test_tier_of_settled_credit(settled: int, gpu: bool, tier: Tier) -> None:
    assert tier_of(settled, audited_gpu=gpu) == tier
    assert tier_info(settled, audited_gpu=gpu).tier == tier


@pytest.mark.parametrize(
    ("settled", "gpu", "info"),
    [
        (0, False, TierInfo(Tier.FREE, Tier.CONTRIBUTOR, 100 * CREDIT, missing_gpu=False)),
        (
            150 * CREDIT,
            False,
            TierInfo(Tier.CONTRIBUTOR, Tier.TRAINER, 350 * CREDIT, missing_gpu=True),
        ),
        (700 * CREDIT, False, TierInfo(Tier.CONTRIBUTOR, Tier.TRAINER, 0, missing_gpu=True)),
        (700 * CREDIT, True, TierInfo(Tier.TRAINER, Tier.CORE, 300 * CREDIT, missing_gpu=False)),
        (2000 * CREDIT, True, TierInfo(Tier.CORE, None, 0, missing_gpu=False)),
    ],
)
def test_tier_info_says_what_is_missing(settled: int, gpu: bool, info: TierInfo) -> None:
    assert tier_info(settled, audited_gpu=gpu) == info


@given(less=st.integers(0, 2**50), more=st.integers(0, 2**50), gpu=st.booleans())
def test_more_credit_and_a_gpu_never_lower_a_tier(less: int, more: int, gpu: bool) -> None:
    order = list(Tier)
    low = order.index(tier_of(less, audited_gpu=gpu))
    assert low <= order.index(tier_of(less + more, audited_gpu=gpu))
    assert low <= order.index(tier_of(less, audited_gpu=True))


def test_thresholds_are_passed_in() -> None:
    rules = tier_rules(contributor=1, trainer=2, core=3)
    assert tier_of(3 * CREDIT, audited_gpu=True, rules=rules) == Tier.CORE
    assert tier_of(3 * CREDIT, audited_gpu=False, rules=rules) == Tier.CONTRIBUTOR


@pytest.mark.parametrize("thresholds", [(0, 5, 9), (5, 5, 9), (5, 9, 7), (-1, 5, 9)])
def test_thresholds_must_rise_from_zero(thresholds: tuple[int, int, int]) -> None:
    contributor, trainer, core = thresholds
    with pytest.raises(ValueError, match="must rise"):
        tier_rules(contributor=contributor, trainer=trainer, core=core)
