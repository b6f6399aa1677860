"""The price of work: ten credits are one reference GPU-hour, expressed in tokens.

All arithmetic is in integers. A reward is rounded down to the micro-credit, so that work split
into many pieces never earns more than the same work in one.

Pure. Source: docs/adr/0001, credit.
"""

from __future__ import annotations

UCREDITS_PER_CREDIT = 1_000_000
CREDITS_PER_REFERENCE_HOUR = 10


def reward_ucredits(tokens: int, *, reference_tokens_per_hour: int) -> int:
    """Return what training on `tokens` is worth, in micro-credits, rounded down.

    Args:
        tokens: trained tokens, not negative.
        reference_tokens_per_hour: of the cycle's config: tokens worth ten credits, positive.
    Raises: ValueError: an argument outside its range.
    """
    if tokens < 0 or reference_tokens_per_hour <= 0:
        raise ValueError(f"{tokens} tokens at {reference_tokens_per_hour} per reference hour")
    hour = CREDITS_PER_REFERENCE_HOUR * UCREDITS_PER_CREDIT
    return tokens * hour // reference_tokens_per_hour
