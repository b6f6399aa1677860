"""What a teacher is asked for: pools of our own words, and a choice that fills the gaps.

*.toml      per category: what it is, its rules and rubric, topics, kinds of task, forms of
            answer; shared.toml: personas, languages, difficulties, evolutions
pools.py    reads and checks them
choice.py   seeds (one combination each) by a seeded choice; coverage of what is there
"""

from ares_coordinator.distiller.plans.choice import Coverage, Seed, is_sampled, plan_seeds
from ares_coordinator.distiller.plans.pools import (
    GENERATOR_VERSION,
    CategoryPlan,
    Entry,
    Flow,
    Length,
    load_plan,
)

__all__ = [
    "GENERATOR_VERSION",
    "CategoryPlan",
    "Coverage",
    "Entry",
    "Flow",
    "Length",
    "Seed",
    "is_sampled",
    "load_plan",
    "plan_seeds",
]
