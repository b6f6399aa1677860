"""The pools and the choice: large enough, free of doubles, seeded, and gaps first."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import fields

import pytest

from ares_coordinator.distiller.plans import (
    CategoryPlan,
    Coverage,
    Entry,
    Flow,
    Length,
    Seed,
    is_sampled,
    load_plan,
    plan_seeds,
)
from ares_p2p.domain import CATEGORIES
from ares_p2p.errors import TeacherFault

POOLS = {
    "topics": 70, "task_types": 12, "forms": 4, "personas": 100, "languages": 12,
    "difficulties": 5, "evolutions": 15, "turns": 1,
}  # fmt: skip


def seeds(category: str = "code", count: int = 200, *, seed: int = 1) -> tuple[Seed, ...]:
    return plan_seeds(load_plan(category), Coverage(), seed=seed, first=0, count=count)


@pytest.mark.parametrize("category", CATEGORIES)
def test_pools_are_large_and_name_nothing_twice(category: str) -> None:
    plan = load_plan(category)
    for name, least in POOLS.items():
        pool: tuple[Entry, ...] = getattr(plan, name)
        texts = [entry.text for entry in pool]
        assert len(texts) >= least, name
        doubles = [text for text, count in Counter(texts).items() if count > 1]
        assert doubles == [], name
        assert all(entry.weight >= 1 and entry.text == entry.text.strip() for entry in pool)
    assert {entry.text.partition(":")[0] for entry in plan.forms} <= set(Length)
    assert {entry.text for entry in plan.turns} <= {"1", "2", "3"}
    assert [entry.weight for entry in plan.evolutions if entry.text == "none"] != []
    assert len(plan.rubric) == 4
    assert all(question.endswith("?") for _, question in plan.rubric)
    assert len(plan.rules) >= 4
    assert len(plan.about) > 100


def test_all_pools_together_have_a_thousand_entries_of_their_own() -> None:
    plans = [load_plan(category) for category in CATEGORIES]
    own = [e.text for plan in plans for e in (*plan.topics, *plan.task_types, *plan.forms)]
    shared = (*plans[0].personas, *plans[0].languages, *plans[0].evolutions)
    assert len(set(own)) + len(shared) > 1000
    topics = Counter(entry.text for plan in plans for entry in plan.topics)
    assert [text for text, count in topics.items() if count > 1] == []


def test_kinds_of_flow() -> None:
    flows = {category: load_plan(category).flow for category in CATEGORIES}
    assert [name for name, flow in flows.items() if flow is Flow.TOOLS] == ["tool_use"]
    assert [name for name, flow in flows.items() if flow is Flow.DOCUMENT] == ["long_context"]
    with pytest.raises(TeacherFault, match="one of"):
        load_plan("poetry")


def test_the_same_seed_plans_the_same_and_another_one_does_not() -> None:
    assert seeds() == seeds()
    assert seeds(seed=2) != seeds()
    assert seeds("creative")[0].topic != seeds()[0].topic


def test_a_plan_is_the_same_in_every_process() -> None:
    program = (
        "from ares_coordinator.distiller.plans import Coverage, load_plan, plan_seeds\n"
        "print(plan_seeds(load_plan('code'), Coverage(), seed=1, first=0, count=200)[-1])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": salt},
            capture_output=True,
            check=True,
            text=True,
        ).stdout.strip()
        for salt in ("1", "2")
    }
    assert said == {repr(seeds()[-1])}


@pytest.mark.parametrize("category", CATEGORIES)
def test_two_hundred_seeds_cover_every_value(category: str) -> None:
    plan = load_plan(category)
    coverage = Coverage.of(seeds(category))
    assert coverage.seeds == 200
    assert coverage.missing(plan) == {}


def test_values_come_up_as_often_as_their_weights_ask() -> None:
    plan, chosen = load_plan("code"), seeds(count=400)
    for name, pool in (("language", plan.languages), ("difficulty", plan.difficulties)):
        counts = Counter(getattr(seed, name) for seed in chosen)
        whole = sum(entry.weight for entry in pool)
        for entry in pool:
            assert counts[entry.text] == pytest.approx(400 * entry.weight / whole, abs=entry.weight)


def test_pairs_are_spread_better_than_by_chance() -> None:
    """400 seeds over 98 x 17 pairs of topic and kind: drawn at random, about 45 come up twice."""
    pairs = Counter((seed.topic, seed.task_type) for seed in seeds(count=400))
    assert sum(count > 1 for count in pairs.values()) <= 10


def test_what_is_missing_comes_first() -> None:
    plan = load_plan("code")
    gone = {"a ring buffer", "edit distance", "floating-point comparison"}
    present = [seed for seed in seeds(count=196) if seed.topic not in gone]
    later = plan_seeds(plan, Coverage.of(present), seed=1, first=196, count=6)
    assert gone <= {seed.topic for seed in later}
    assert [seed.number for seed in later] == list(range(196, 202))


def test_planning_does_not_change_the_coverage() -> None:
    coverage = Coverage.of(seeds(count=5))
    plan_seeds(load_plan("code"), coverage, seed=1, first=5, count=50)
    assert coverage.seeds == 5


def test_a_share_is_sampled_and_stays_the_same() -> None:
    chosen = [is_sampled(3, "code", n, purpose="judge", share=0.25) for n in range(4000)]
    assert 0.22 < sum(chosen) / 4000 < 0.28
    assert chosen == [is_sampled(3, "code", n, purpose="judge", share=0.25) for n in range(4000)]
    assert not any(is_sampled(3, "code", n, purpose="judge", share=0.0) for n in range(100))
    assert all(is_sampled(3, "code", n, purpose="judge", share=1.0) for n in range(100))
    other = [is_sampled(3, "code", n, purpose="second", share=0.25) for n in range(4000)]
    assert other != chosen


def test_a_seed_names_every_dimension_of_a_plan() -> None:
    one = seeds(count=1)[0]
    assert {field.name for field in fields(Seed)} == {
        "category", "number", "topic", "task_type", "difficulty", "persona", "language", "form",
        "evolution", "turns",
    }  # fmt: skip
    assert isinstance(load_plan("code"), CategoryPlan)
    assert one.length in Length
