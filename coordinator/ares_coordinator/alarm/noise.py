"""Is a state worse than the one before it beyond noise, and does leaving something out mend it?

Both are asked example by example (paired) on the same held-out examples. There are two kinds of
noise. One is of the look: few examples, which the standard error measures. The other is of the
training: an honest round may really make the model a little worse, because a step along the mean
of a few noisy updates is a noisy step; what that costs falls with the number of contributions. So
an alarm needs both, `SIGMAS` standard errors and a share of the loss that shrinks with the round.

How the numbers were chosen (docs/adr/0006): in 1,920 honest rounds of 2 to 8 peers, on the shipped
base and on the toy of the tests, no rise of more than three standard errors was above 0.17 / n of
the loss, for n contributions. What costs less than that is not told from an unlucky honest round,
and is left to the robust mean and to the audits. Of a lone contribution nobody can say whether it or
the round is bad: no alarm. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Losses = npt.NDArray[np.float64]  # (examples,), nats a token, mean over each example's tokens

SIGMAS = 3.0  # standard errors of the mean difference
SHARE_OF_ONE = 0.2  # of the loss, divided by the number of contributions
LOWEST_SHARE = 0.02  # of the loss: a smaller rise is not worth a round of everybody's work
MIN_EXAMPLES = 32  # with fewer the standard error is itself a guess
MIN_CONTRIBUTIONS = 2
MENDED_SHARE = 0.5  # of the damage: what recovers less does not explain it


@dataclass(frozen=True, slots=True)
class Change:
    """How much higher the loss is after than before. Nats a token."""

    mean: float
    standard_error: float  # of the mean; infinite for less than two examples
    examples: int

    @property
    def is_beyond_noise(self) -> bool:
        """Whether it is higher by more than the look's own noise."""
        return self.mean > SIGMAS * self.standard_error


def change_between(before: Losses, after: Losses) -> Change:
    """Return the change from `before` to `after`, (examples,) each, the same examples in order."""
    difference = after - before
    count = len(difference)
    error = float(difference.std(ddof=1)) / math.sqrt(count) if count > 1 else math.inf
    return Change(float(difference.mean()), error, count)


def is_alarming(before: Losses, after: Losses, *, contributions: int) -> bool:
    """Return whether a round made the model worse than honest rounds do.

    Args:
        before, after: losses at the round's start and at its end.
        contributions: that the round counted.
    """
    if contributions < MIN_CONTRIBUTIONS or len(before) < MIN_EXAMPLES:
        return False
    change = change_between(before, after)
    share = max(LOWEST_SHARE, SHARE_OF_ONE / contributions)
    return change.is_beyond_noise and change.mean > share * float(before.mean())


def is_mended(before: Losses, bad: Losses, without: Losses, *, contributions: int) -> bool:
    """Return whether leaving something out takes the damage back, most of it and beyond noise.

    Args:
        before, bad: losses at the round's start and at its end.
        without: losses at the end of the same round, made anew without something.
        contributions: that count then.
    """
    damage, gain = change_between(before, bad).mean, change_between(without, bad)
    is_most = gain.is_beyond_noise and gain.mean >= MENDED_SHARE * damage
    return is_most and not is_alarming(before, without, contributions=contributions)
