"""docs/procedural.md says what was measured, and lists what there is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ares_coordinator.distiller.procedural import FAMILIES
from ares_p2p.domain import CATEGORIES

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def test_speed_table_is_the_results() -> None:
    from benchmarks.bench_procedural import PART, table

    found = json.loads((RESULTS / "procedural.json").read_text(encoding="utf-8"))
    assert PART.read() == table(found)
    kinds = {name: one["kinds"] for name, one in found["categories"].items()}
    assert kinds == {name: len(found) for name, found in FAMILIES.items()}


def test_learning_table_is_the_results() -> None:
    pytest.importorskip("torch")
    from benchmarks.learn_cycle import PART, table

    found = json.loads((RESULTS / "learning.json").read_text(encoding="utf-8"))
    assert PART.read() == table(found)
    assert tuple(found["categories"]) == CATEGORIES
