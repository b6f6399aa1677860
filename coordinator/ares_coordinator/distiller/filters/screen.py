"""All filters in their order, counted: the cheap ones first, the ones that remember last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from ares_coordinator.distiller.filters.base import Filter, Reject
from ares_coordinator.distiller.filters.contamination import ContaminationFilter, NgramIndex
from ares_coordinator.distiller.filters.exact import Deduplicator
from ares_coordinator.distiller.filters.language import LanguageFilter
from ares_coordinator.distiller.filters.near import NearDuplicates
from ares_coordinator.distiller.filters.private import personal_data, secret
from ares_coordinator.distiller.filters.syntax import code_broken, json_broken
from ares_coordinator.distiller.filters.wording import length, refusal, repetitive, truncated
from ares_p2p.shards import Example

WORDING: Final[tuple[Filter, ...]] = (
    length,
    refusal,
    truncated,
    repetitive,
    code_broken,
    json_broken,
    secret,
    personal_data,
)


class Screen:
    """What a written or imported row must pass. One per dataset; not for several threads.

    Rows that a program checks are templated and verified: they meet the contamination filter and
    the deduplicator only.

    Args:
        languages: ISO 639-1 codes that the network trains on; empty: all.
        indices: evaluation sets of which no row may hold a run of words.
        forbidden_keys: of sealed evaluation sets.
    """

    def __init__(
        self,
        *,
        languages: Iterable[str] = (),
        indices: Iterable[NgramIndex] = (),
        forbidden_keys: frozenset[str] = frozenset(),
    ) -> None:
        self.counts: Counter[str] = Counter()  # "accepted", and rows left out by label
        self._exact = Deduplicator(forbidden_keys)
        self._contamination = ContaminationFilter(indices)
        self._filters: tuple[Filter, ...] = (
            *WORDING,
            LanguageFilter(frozenset(languages)),
            NearDuplicates(),
        )

    def __call__(self, example: Example) -> Example | Reject:
        """Return the row, or why it is left out."""
        result = self._judge(example)
        self.counts[result.label if isinstance(result, Reject) else "accepted"] += 1
        return result

    def _judge(self, example: Example) -> Example | Reject:
        if not example.licence:
            return Reject("unlicensed", example.key)
        quoted = self._contamination(example)
        if quoted is not None:
            return quoted
        if not example.check:
            for one in self._filters:
                found = one(example)
                if found is not None:
                    return found
        return self._exact(example)
