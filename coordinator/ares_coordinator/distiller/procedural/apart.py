"""Proof that two sets of rows have nothing in common: no template, no task, no near duplicate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rensa import RMinHash, RMinHashLSH

from ares_coordinator.distiller.filters.near import (
    BANDS,
    NEAR,
    PERMUTATIONS,
    shingles,
)
from ares_coordinator.distiller.procedural.checks import check_template
from ares_coordinator.distiller.procedural.draft import task_digest
from ares_coordinator.distiller.procedural.reading import Turns
from ares_coordinator.distiller.procedural.spec import CheckSpec
from ares_p2p.errors import PayloadMalformed
from ares_p2p.shards import Example

_SEED = 0x41504152  # any: the same rows give the same sketches
LOOKED_AT = 0.35  # pairs above this estimated resemblance are counted word by word


@dataclass(frozen=True, slots=True)
class Overlap:
    """What two sets of rows share.

    Attributes:
        templates: identities of templates that word questions of both sets.
        tasks: how many tasks are asked in both.
        nearest: the largest resemblance of a row of one set to a row of the other, 0 to 1, exact
            where the estimate is above `LOOKED_AT`; 0 below it.
        near_duplicates: pairs with a resemblance of `NEAR` and above.
    """

    templates: tuple[str, ...]
    tasks: int
    nearest: float
    near_duplicates: int


def _templates(rows: Sequence[Example]) -> dict[str, str]:
    """Return template -> one question that it words."""
    return {CheckSpec.parse(r.check).text("template"): Turns(r.messages[:-1]).asked for r in rows}


def _tasks(rows: Sequence[Example]) -> set[bytes]:
    specs = [CheckSpec.parse(row.check) for row in rows]
    return {task_digest(spec.kind, spec.texts("task")) for spec in specs}


def overlap(train: Sequence[Example], held_out: Sequence[Example]) -> Overlap:
    """Return what the two sets share; both of one category, and verified."""
    ours, theirs = _templates(train), _templates(held_out)
    shared = set(ours) & set(theirs)
    for found in (ours, theirs):
        for template, asked in found.items():
            try:
                check_template(template, asked)
            except PayloadMalformed:
                shared.add(template)
    nearest, near = _resemblance(train, held_out)
    tasks = len(_tasks(train) & _tasks(held_out))
    return Overlap(tuple(sorted(shared)), tasks, nearest, near)


def _resemblance(train: Sequence[Example], held_out: Sequence[Example]) -> tuple[float, int]:
    index = RMinHashLSH(NEAR, PERMUTATIONS, BANDS)
    kept: list[tuple[RMinHash, set[str]]] = []
    for row in train:
        runs = shingles(row)
        if runs:
            sketch = _sketch(runs)
            index.insert(len(kept), sketch)
            kept.append((sketch, runs))
    nearest, near = 0.0, 0
    for row in held_out:
        runs = shingles(row)
        if not runs:
            continue
        sketch = _sketch(runs)
        for number in index.query(sketch):
            other, theirs = kept[number]
            if sketch.jaccard(other) >= LOOKED_AT:
                exact = len(runs & theirs) / len(runs | theirs)
                nearest, near = max(nearest, exact), near + (exact >= NEAR)
    return nearest, near


def _sketch(runs: set[str]) -> RMinHash:
    sketch = RMinHash(PERMUTATIONS, _SEED)
    sketch.update(sorted(runs))
    return sketch
