"""When a loss is an alarm, and when leaving something out mends it."""

from __future__ import annotations

import numpy as np
import pytest

from ares_coordinator.alarm.noise import (
    LOWEST_SHARE,
    MIN_EXAMPLES,
    SHARE_OF_ONE,
    SIGMAS,
    Losses,
    change_between,
    is_alarming,
    is_mended,
)

EXAMPLES = 128
BEFORE: Losses = np.random.default_rng(0).gamma(2.0, 0.5, EXAMPLES)


def risen(rise: float, *, spread: float = 0.0, before: Losses = BEFORE) -> Losses:
    """Losses that are higher by `rise` in the mean, and differently so from example to example."""
    noise = np.random.default_rng(1).standard_normal(len(before))
    noise -= noise.mean()
    return before + rise + spread * noise


def test_change_is_the_paired_one() -> None:
    after = risen(0.1, spread=0.02)
    change = change_between(BEFORE, after)
    assert change.mean == pytest.approx(0.1)
    difference = after - BEFORE
    assert change.standard_error == pytest.approx(difference.std(ddof=1) / EXAMPLES**0.5)
    assert change.standard_error < 0.01 < BEFORE.std() / EXAMPLES**0.5  # unpaired: ten times that


@pytest.mark.parametrize("contributions", [2, 3, 8, 64])
def test_rise_is_alarming_above_a_share_of_the_loss_that_falls_with_the_round(
    contributions: int,
) -> None:
    share = max(LOWEST_SHARE, SHARE_OF_ONE / contributions) * float(BEFORE.mean())
    assert is_alarming(BEFORE, risen(1.01 * share), contributions=contributions)
    assert not is_alarming(BEFORE, risen(0.99 * share), contributions=contributions)
    assert not is_alarming(BEFORE, risen(-share), contributions=contributions)


def test_rise_within_the_noise_of_the_look_is_no_alarm() -> None:
    rise = 0.2 * float(BEFORE.mean())
    least = rise * EXAMPLES**0.5 / SIGMAS  # the spread whose mean is just so uncertain
    assert is_alarming(BEFORE, risen(rise, spread=0.9 * least), contributions=3)
    assert not is_alarming(BEFORE, risen(rise, spread=1.1 * least), contributions=3)


def test_one_contribution_or_a_handful_of_examples_raise_no_alarm() -> None:
    assert not is_alarming(BEFORE, risen(5.0), contributions=1)
    assert not is_alarming(BEFORE, risen(5.0), contributions=0)
    few = BEFORE[: MIN_EXAMPLES - 1]
    assert not is_alarming(few, risen(5.0, before=few), contributions=3)
    assert change_between(few[:1], few[:1]).standard_error == float("inf")


def test_mended_is_what_takes_most_of_the_damage_back() -> None:
    bad = risen(0.6)
    assert is_mended(BEFORE, bad, risen(0.02), contributions=3)
    assert is_mended(BEFORE, bad, risen(-0.1), contributions=3)
    assert not is_mended(BEFORE, bad, risen(0.35), contributions=3)  # less than half
    assert not is_mended(BEFORE, bad, risen(0.2), contributions=3)  # more, and still an alarm
    assert not is_mended(BEFORE, bad, bad, contributions=3)


def test_a_gain_within_the_noise_mends_nothing() -> None:
    bad = risen(0.3)
    assert not is_mended(BEFORE, bad, risen(0.0, spread=2.0), contributions=3)
