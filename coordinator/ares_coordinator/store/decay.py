"""Credit that fades: settled work counts half as much after 30 days, a quarter after 60.

    recent(t) = sum over settled pieces of work of amount * 2^-((t - at) / 30 days)

where `at` is the time of the posting that settled the work. Work that was voided or taken back is
in no such sum. One number and its moment say it for every moment, because all of it fades alike:

    recent(t) = recent(t0) * 2^-((t - t0) / 30 days)

and so does one number for the order: of two workers, the one with the higher
`log2(recent(t0)) + t0 / 30 days` has more recent credit now, and at any other moment.

Pure. The exact sum is in `ares_coordinator.ledger.standings`; what is kept up to date posting by
posting differs from it by rounding only.
"""

from __future__ import annotations

import math
from typing import Final

HALF_LIFE_MS: Final = 30 * 24 * 3600 * 1000
NO_SCORE: Final = -1e6  # of who has no recent credit: below every other score


def faded(ucredits: float, *, from_ms: int, to_ms: int) -> float:
    """Return what micro-credits of one moment count at a later one; an earlier one is the same."""
    return ucredits * math.exp2(-max(0, to_ms - from_ms) / HALF_LIFE_MS)


def recent_score(recent_ucredits: float, at_ms: int) -> float:
    """Return the number that orders workers by their recent credit."""
    if recent_ucredits <= 0:
        return NO_SCORE
    return math.log2(recent_ucredits) + at_ms / HALF_LIFE_MS
