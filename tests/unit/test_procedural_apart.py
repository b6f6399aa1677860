"""Train and held-out rows share no template, no task and no near duplicate."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from ares_coordinator.distiller.procedural import ProceduralTeacher, templates, verify, verify_all
from ares_coordinator.distiller.procedural.apart import Overlap, overlap
from ares_coordinator.distiller.procedural.spec import CheckSpec
from ares_coordinator.distiller.procedural.templates import WORDINGS, Wordings, fits
from ares_p2p.errors import PayloadMalformed
from ares_p2p.shards import CATEGORIES, Example, split_of
from ares_p2p.shards.format import Split

ROWS = 1_000
SEED = 2


def rows_of(category: str, side: Split, count: int = ROWS) -> list[Example]:
    return list(ProceduralTeacher(side=side).generate(category, count, seed=SEED, start=0))


@pytest.mark.parametrize("category", CATEGORIES)
def test_sides_have_nothing_in_common(category: str) -> None:
    train, held_out = rows_of(category, "train"), rows_of(category, "eval")
    assert verify_all([*train, *held_out]) == [None] * 2 * ROWS
    assert {split_of(row.key) for row in train} == {"train"}
    assert {split_of(row.key) for row in held_out} == {"eval"}
    found = overlap(train, held_out)
    assert (found.templates, found.tasks, found.near_duplicates) == ((), 0, 0)


def test_overlap_sees_what_is_shared() -> None:
    train, held_out = rows_of("roleplay", "train", 200), rows_of("roleplay", "eval", 200)
    found = overlap(train, [*held_out, train[0]])
    template = CheckSpec.parse(train[0].check).text("template")
    assert found == Overlap((template,), 1, 1.0, 1)


def test_a_template_on_both_sides_does_not_load() -> None:
    with pytest.raises(ValueError, match="both sides"):
        Wordings(("How old is {name}?",), ("How Old is {who}?",))


def test_a_template_that_is_moved_to_both_sides_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same words under two names: the guard of `Wordings` does not see a slot that swallows them."""
    both = Wordings(WORDINGS["parity"].train, ("{x} even or odd?",))
    monkeypatch.setitem(templates.WORDINGS, "parity", both)
    templates._pattern.cache_clear()
    try:
        rows = [r for r in rows_of("reasoning", "train", 60) if "/parity.t0:" in r.key]
        assert rows
        assert all(refusal is not None for refusal in verify_all(rows))
        assert overlap(rows, []).templates == ("parity.t0",)
    finally:
        templates._pattern.cache_clear()


@pytest.mark.parametrize("name", sorted(WORDINGS))
def test_wordings_are_real_ones_for_both_sides(name: str) -> None:
    both = WORDINGS[name]
    assert len(both.train) >= 2
    assert both.held_out
    for text in (*both.train, *both.held_out):
        fixed = re.sub(r"\{\w+\}", "", text)
        assert re.search(r"[A-Za-z]+|= \?", fixed)  # something beside its slots


def test_a_row_cannot_change_its_side() -> None:
    for row in rows_of("instruction", "eval", 20):
        with pytest.raises(PayloadMalformed):
            verify(replace(row, key=row.key.replace("ares-split-eval/", "ares-split-train/")))


def test_unknown_templates_fit_nothing() -> None:
    for name in ("", "order", "order.t99", "order.x0", "order.t0+", "nothing.t0", "order.t-1"):
        assert not fits(name, "Anna is taller than Bob. Who is the tallest?")
