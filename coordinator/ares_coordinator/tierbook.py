"""Whose tier is what, remembered for a minute: asked on every request and every commit.

A tier rises by work of days; a minute's delay changes nothing, a query per request would.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from ares_coordinator.ledger.tiers import DEFAULT_RULES, Tier, TierRule, tier_of, tier_rules
from ares_coordinator.settings import CreditSection
from ares_coordinator.store.base import Store
from ares_coordinator.store.thread import StoreThread
from ares_p2p.clock import Clock
from ares_p2p.ids import PeerId

KEPT_MS = 60_000
MAX_KEPT = 4_096  # workers; bounds memory under a crowd of made-up identities


def rules_of(credit: CreditSection) -> tuple[TierRule, ...]:
    """Return a network's tiers from its settings."""
    return tier_rules(contributor=credit.contributor, trainer=credit.trainer, core=credit.core)


def read_tier(store: Store, worker: PeerId, rules: Sequence[TierRule] = DEFAULT_RULES) -> Tier:
    """Return a worker's tier as the ledger has it; to be called in the store's thread."""
    row = store.worker(worker)
    if row is None:
        return rules[0].tier
    settled = sum(total.settled_ucredits for total in store.totals(worker))
    return tier_of(settled, audited_gpu=row.gpu_passes > 0, rules=rules)


@dataclass(slots=True)
class TierBook:
    """One per coordinator."""

    db: StoreThread
    clock: Clock
    rules: Sequence[TierRule] = DEFAULT_RULES
    _known: OrderedDict[PeerId, tuple[int, Tier]] = field(default_factory=OrderedDict)

    async def tier_of(self, worker: PeerId) -> Tier:
        """Return a worker's tier; FREE for one that never took part."""
        now_ms = self.clock.now_ms()
        known = self._known.get(worker)
        if known is not None and now_ms - known[0] < KEPT_MS:
            return known[1]
        tier = await self.db.call(read_tier, self.db.store, worker, self.rules)
        self._known[worker] = (now_ms, tier)
        self._known.move_to_end(worker)
        while len(self._known) > MAX_KEPT:
            self._known.popitem(last=False)
        return tier
