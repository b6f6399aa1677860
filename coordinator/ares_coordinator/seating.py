"""Who gets the seats of a round that more peers want than it holds.

A round has `max_peers` seats, first come first served. While it is open, a seat is held for every
present worker of a higher tier that is prepared for the cycle and has not committed yet, but
never more than half of all seats. So an old hand with a slow machine is not shut out by a crowd
of fresh identities, and no seat stays empty for somebody who is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from ares_coordinator.ledger.tiers import BENEFITS, LADDER
from ares_coordinator.tierbook import TierBook
from ares_p2p.errors import RateLimited
from ares_p2p.ids import PeerId

HELD_SHARE = 0.5  # of all seats at most: a newcomer always has a chance


@dataclass(frozen=True, slots=True)
class Seating:
    """One per cycle. `waiting` returns who is present and prepared for it."""

    tiers: TierBook
    seats: int
    waiting: Callable[[], Collection[PeerId]]

    async def check(self, peer: PeerId, *, seated: Collection[PeerId]) -> None:
        """Let `peer` commit, or say for whom the free seats are held.

        Args:
            seated: who has a seat already.
        Raises: RateLimited: every free seat is held for a higher tier.
        """
        free = self.seats - len(seated)
        present = [one for one in self.waiting() if one != peer and one not in seated]
        if peer in seated or free <= 0 or free > len(present):
            return  # the usual cases, without asking for anybody's tier; a full book says so itself
        own = LADDER.index(await self.tiers.tier_of(peer))
        held = 0
        for one in present:
            tier = await self.tiers.tier_of(one)
            held += LADDER.index(tier) > own and BENEFITS[tier].holds_seats
        held = min(held, int(self.seats * HELD_SHARE))
        if free <= held:
            raise RateLimited(
                f"the round is full: of {self.seats} seats {len(seated)} are taken and {held} are "
                f"held for workers of a higher tier than {LADDER[own]}",
                hint="Nothing is wrong; the next round is soon. Settled credit raises the tier.",
            )
