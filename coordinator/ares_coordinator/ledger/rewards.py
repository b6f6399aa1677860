"""The price of work as the coordinator's modules import it, and credits for people.

The price itself is in the library (`ares_p2p.proofs.price`): a volunteer's own check computes
with the very same function.
"""

from __future__ import annotations

from ares_p2p.proofs.price import (
    CREDITS_PER_REFERENCE_HOUR,
    UCREDITS_PER_CREDIT,
    reward_ucredits,
)

__all__ = ["CREDITS_PER_REFERENCE_HOUR", "UCREDITS_PER_CREDIT", "credits_of", "reward_ucredits"]


def credits_of(ucredits: int) -> float:
    """Return micro-credits as credits, for people; never to be computed with."""
    return ucredits / UCREDITS_PER_CREDIT
