"""docs/filters.md says what the filters really do on the labelled rows, and names every reason."""

from __future__ import annotations

from collections import Counter
from typing import get_args

from ares_coordinator.distiller.filters import Reason
from benchmarks.bench_filters import GOOD, PAGE, PART, labelled_rows, measure, table


def test_page_holds_what_is_measured() -> None:
    assert PART.read() == table(measure())


def test_page_names_every_reason() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [reason for reason in get_args(Reason) if reason not in page] == []


def test_labelled_rows_are_many_and_different() -> None:
    rows = list(labelled_rows())
    labels = Counter(row.label for row in rows)
    assert labels.pop(GOOD) > 200 < labels.total()
    assert set(labels) <= set(get_args(Reason))
    assert len({row.id for row in rows}) == len(rows)
    assert len({row.example.messages for row in rows}) == len(rows)
