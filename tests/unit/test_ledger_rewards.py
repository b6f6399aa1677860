"""Rewards: integer, rounded down, never more for work in pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ares_coordinator.ledger.rewards import credits_of, reward_ucredits

TOKENS = st.integers(0, 2**50)
PRICE = st.integers(1, 2**50)


@pytest.mark.parametrize(
    ("tokens", "per_hour", "wanted"),
    [
        (0, 1000, 0),
        (1000, 1000, 10_000_000),  # one reference hour: ten credits
        (500, 1000, 5_000_000),
        (1, 3, 3_333_333),  # rounded down
        (1, 10_000_001, 0),
        (2**50, 1, 2**50 * 10_000_000),
    ],
)
def test_reward_of_known_work(tokens: int, per_hour: int, wanted: int) -> None:
    assert reward_ucredits(tokens, reference_tokens_per_hour=per_hour) == wanted


@pytest.mark.parametrize(("tokens", "per_hour"), [(-1, 10), (1, 0), (1, -5)])
def test_reward_refuses_impossible_work(tokens: int, per_hour: int) -> None:
    with pytest.raises(ValueError, match="tokens at"):
        reward_ucredits(tokens, reference_tokens_per_hour=per_hour)


@given(pieces=st.lists(TOKENS, max_size=8), per_hour=PRICE)
def test_reward_of_pieces_is_at_most_that_of_the_whole(pieces: list[int], per_hour: int) -> None:
    whole = reward_ucredits(sum(pieces), reference_tokens_per_hour=per_hour)
    parts = sum(reward_ucredits(piece, reference_tokens_per_hour=per_hour) for piece in pieces)
    assert whole - len(pieces) <= parts <= whole


@given(tokens=TOKENS, more=TOKENS, per_hour=PRICE)
def test_reward_grows_with_the_work(tokens: int, more: int, per_hour: int) -> None:
    less = reward_ucredits(tokens, reference_tokens_per_hour=per_hour)
    assert less <= reward_ucredits(tokens + more, reference_tokens_per_hour=per_hour)


def test_credits_are_for_people() -> None:
    assert credits_of(12_500_000) == 12.5
