"""Precision and recall of the data filters on `data/filters/labelled.jsonl`; renews docs/filters.md.

    python -m benchmarks.bench_filters --output benchmarks/results/filters.json

The rows with odd numbers were looked at while the filters were written, those with even numbers
never: the two halves are counted apart. A filter is right about a bad row when it names that row's
label; whatever it says of a good row is a false alarm. What one filter says of a row that was
written for another is not counted.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ares_coordinator.distiller.filters import Reject
from ares_coordinator.distiller.filters.base import Filter
from ares_coordinator.distiller.filters.language import LanguageFilter
from ares_coordinator.distiller.filters.near import NearDuplicates
from ares_coordinator.distiller.filters.screen import WORDING
from ares_p2p.shards import Example, Message
from benchmarks.marked import MarkedPart

ROOT = Path(__file__).parent.parent
LABELLED = ROOT / "data" / "filters" / "labelled.jsonl"
PAGE = ROOT / "docs" / "filters.md"
PART = MarkedPart(PAGE, "measured")
CUT = "‖"  # stands inside every made-up secret, so that no scanner takes the file for a leak
GOOD = "good"


@dataclass(frozen=True, slots=True)
class Labelled:
    """A row, what is wrong with it, and whether the filters' author had seen it."""

    id: str
    label: str
    seen: bool
    example: Example


def labelled_rows() -> Iterator[Labelled]:
    """Yield the rows of the file, secrets put together again."""
    for line in LABELLED.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        turns = (Message(m["role"], m["content"].replace(CUT, "")) for m in row["messages"])
        example = Example(row["category"], tuple(turns), row["id"], "", "people", "Apache-2.0")
        number = int(re.findall(r"\d+", row["id"])[-1])
        yield Labelled(row["id"], row["label"], number % 2 == 1, example)


def measure() -> dict[str, Any]:
    """Return counts by filter and half: right, missed, false alarms."""
    filters: tuple[Filter, ...] = (*WORDING, LanguageFilter(), NearDuplicates())
    right: Counter[tuple[str, bool]] = Counter()
    missed: Counter[tuple[str, bool]] = Counter()
    false: Counter[tuple[str, bool]] = Counter()
    rows = list(labelled_rows())
    started = time.process_time()
    for row in rows:
        found = [one(row.example) for one in filters]
        reasons = {reject.reason for reject in found if isinstance(reject, Reject)}
        if row.label == GOOD:
            false.update((reason, row.seen) for reason in reasons)
        else:
            (right if row.label in reasons else missed)[row.label, row.seen] += 1
    seconds = time.process_time() - started
    labels = sorted({row.label for row in rows} - {GOOD})
    return {
        "benchmark": "filters",
        "bad": sum(row.label != GOOD for row in rows),
        "good": sum(row.label == GOOD for row in rows),
        "rows_per_processor_second": round(len(rows) / seconds),
        "filters": {
            label: {
                half: {
                    "right": right[label, seen],
                    "missed": missed[label, seen],
                    "false": false[label, seen],
                }
                for half, seen in (("seen", True), ("unseen", False))
            }
            for label in labels
        },
    }


def table(found: dict[str, Any]) -> str:
    """Return the page's measured part."""
    lines = [
        (
            f"{found['bad']} bad rows and {found['good']} good ones. *Unseen*: rows that were never "
            "looked at while the filters were written.\n"
        ),
        "| filter | precision | recall | precision, unseen | recall, unseen |",
        "|---|---|---|---|---|",
    ]
    for name, halves in found["filters"].items():
        unseen = halves["unseen"]
        both = {key: halves["seen"][key] + unseen[key] for key in unseen}
        lines.append(f"| {name} | {_shares(both)} | {_shares(unseen)} |")
    return "\n".join(lines) + "\n"


def _shares(counts: dict[str, int]) -> str:
    right, missed, false = counts["right"], counts["missed"], counts["false"]
    precision = f"{right / (right + false):.2f}" if right + false else "-"
    return f"{precision} ({right} of {right + false}) | {right / (right + missed):.2f} ({right} of {right + missed})"


def main() -> None:
    """Measure, write the JSON and the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    found = measure()
    PART.write(table(found))
    text = json.dumps(found, indent=2)
    print(table(found))
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
