"""Seeds: one combination of the pools each, chosen so that gaps are filled first.

The choice is a function of (seed, category, number of the first seed, coverage): the same run
planned again gives the same seeds. Every dimension is an urn with as many balls of a value as its
weight, filled again when it is empty: a value that came up too rarely goes first. Among several
combinations the one whose pairs are rarest wins.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from ares_coordinator.distiller.plans.pools import CategoryPlan, Length, Pool

CANDIDATES: Final = 8  # combinations that are compared for one seed

_POOLS: Final = {  # field of a seed -> field of a plan
    "topic": "topics",
    "task_type": "task_types",
    "difficulty": "difficulties",
    "persona": "personas",
    "language": "languages",
    "form": "forms",
    "evolution": "evolutions",
    "turns": "turns",
}
_PAIRS: Final = (  # the first one counts most
    ("topic", "task_type"),
    ("topic", "difficulty"),
    ("topic", "persona"),
    ("task_type", "difficulty"),
    ("task_type", "form"),
    ("task_type", "language"),
)


@dataclass(frozen=True, slots=True)
class Seed:
    """What one example shall be about. `number` counts the seeds of a category in a run."""

    category: str
    number: int
    topic: str
    task_type: str
    difficulty: str
    persona: str
    language: str
    form: str
    evolution: str
    turns: str

    @property
    def length(self) -> Length:
        """How long the answer may be."""
        return Length(self.form.partition(":")[0])

    @property
    def is_evolved(self) -> bool:
        """Whether the task is rewritten before it is answered."""
        return self.evolution != "none"


@dataclass(slots=True)
class Coverage:
    """How often every value, and every pair of some dimensions, came up."""

    seeds: int = 0
    _values: Counter[tuple[str, str]] = field(default_factory=Counter)
    _pairs: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)

    @classmethod
    def of(cls, seeds: Iterable[Seed]) -> Coverage:
        """Return the coverage of some seeds."""
        coverage = cls()
        for seed in seeds:
            coverage.add(seed)
        return coverage

    def copy(self) -> Coverage:
        """Return a coverage that grows on its own."""
        return Coverage(self.seeds, Counter(self._values), Counter(self._pairs))

    def add(self, seed: Seed) -> None:
        """Count a seed."""
        self.seeds += 1
        for name in _POOLS:
            self._values[name, getattr(seed, name)] += 1
        for pair in self._pairs_of(seed):
            self._pairs[pair] += 1

    def count(self, name: str, value: str) -> int:
        """Return how often a dimension had a value."""
        return self._values[name, value]

    def rarity(self, seed: Seed) -> tuple[int, int]:
        """Return how often its topic came up with its kind of task, and all its other pairs."""
        first, *others = [self._pairs[pair] for pair in self._pairs_of(seed)]
        return first, sum(others)

    def missing(self, plan: CategoryPlan) -> dict[str, int]:
        """Return by dimension how many of its values never came up."""
        found = {}
        for name, pool in _POOLS.items():
            entries: Pool = getattr(plan, pool)
            if missing := sum(not self._values[name, entry.text] for entry in entries):
                found[name] = missing
        return found

    @staticmethod
    def _pairs_of(seed: Seed) -> list[tuple[str, str, str, str]]:
        return [(a, getattr(seed, a), b, getattr(seed, b)) for a, b in _PAIRS]


def plan_seeds(
    plan: CategoryPlan, coverage: Coverage, *, seed: int, first: int, count: int
) -> tuple[Seed, ...]:
    """Return the next seeds of a category.

    Args:
        coverage: of what was accepted until now; not changed.
        seed: of the run.
        first: number of the first of them; all earlier ones are settled.
        count: how many.
    """
    rng = random.Random(_digest(seed, plan.category, first, "plan"))
    growing, planned = coverage.copy(), []
    for number in range(first, first + count):
        urns = {name: _urn(getattr(plan, pool), growing, name) for name, pool in _POOLS.items()}
        candidates = [_combine(plan, urns, rng, number) for _ in range(CANDIDATES)]
        best = min(candidates, key=growing.rarity)
        growing.add(best)
        planned.append(best)
    return tuple(planned)


def _urn(entries: Pool, coverage: Coverage, name: str) -> tuple[list[str], list[int]]:
    """Return the values that are due, and how many balls of each are left."""
    counts = [coverage.count(name, entry.text) for entry in entries]
    level = min(count // entry.weight for count, entry in zip(counts, entries, strict=True))
    left = [
        (entry.text, entry.weight * (level + 1) - count)
        for count, entry in zip(counts, entries, strict=True)
    ]
    due = [(value, balls) for value, balls in left if balls > 0]
    return [value for value, _ in due], list(accumulate(balls for _, balls in due))


def _combine(
    plan: CategoryPlan,
    urns: dict[str, tuple[list[str], list[int]]],
    rng: random.Random,
    number: int,
) -> Seed:
    drawn = {
        name: rng.choices(values, cum_weights=balls)[0] for name, (values, balls) in urns.items()
    }
    return Seed(category=plan.category, number=number, **drawn)


def is_sampled(seed: int, category: str, number: int, *, purpose: str, share: float) -> bool:
    """Whether an example belongs to the share that is judged, or solved twice."""
    return _digest(seed, category, number, purpose) < share * 2**256


def _digest(seed: int, category: str, number: int, purpose: str) -> int:
    text = f"ares-teacher-plan/1/{seed}/{category}/{number}/{purpose}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
