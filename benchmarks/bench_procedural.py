"""The procedural teacher's speed, and whether its two sides are apart; renews docs/procedural.md.

    python -m benchmarks.bench_procedural --output benchmarks/results/procedural.json

A thousand rows of each side and category, all different, on one core: made, then verified by the
readers that know no generator; then compared, side with side. Processor seconds, children included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections import Counter
from pathlib import Path
from typing import Any

from ares_coordinator.distiller.procedural import ProceduralTeacher, verify_all
from ares_coordinator.distiller.procedural.apart import overlap
from ares_coordinator.distiller.procedural.spec import CheckSpec
from ares_p2p.domain import CATEGORIES
from ares_p2p.shards import Example
from ares_p2p.shards.format import Split
from benchmarks.marked import MarkedPart

PAGE = Path(__file__).parent.parent / "docs" / "procedural.md"
PART = MarkedPart(PAGE, "measured")
SIDES: tuple[Split, ...] = ("train", "eval")


def cpu_s() -> float:
    """Return the processor seconds of this process and of the children it has waited for."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def different_rows(
    category: str, side: Split, count: int, *, seed: int
) -> tuple[list[Example], int]:
    """Return `count` rows with different keys, and how many had to be made for them."""
    teacher, rows, made = ProceduralTeacher(side=side), dict[str, Example](), 0
    while len(rows) < count:
        row = teacher.example(category, made, seed=seed)
        rows.setdefault(row.key, row)
        made += 1
    return list(rows.values()), made


def measure(rows: int, *, seed: int) -> dict[str, Any]:
    """Return times and overlaps by category."""
    categories = {}
    for category in CATEGORIES:
        sides, made, make_s, check_s, refused = {}, 0, 0.0, 0.0, 0
        for side in SIDES:
            start = cpu_s()
            sides[side], count = different_rows(category, side, rows, seed=seed)
            middle = cpu_s()
            refused += sum(refusal is not None for refusal in verify_all(sides[side]))
            made, make_s = made + count, make_s + middle - start
            check_s += cpu_s() - middle
        found = overlap(sides["train"], sides["eval"])
        levels = Counter(CheckSpec.parse(row.check).number("level") for row in sides["train"])
        categories[category] = {
            "kinds": len({CheckSpec.parse(row.check).kind for row in sides["train"]}),
            "made": made,
            "make_s": round(make_s, 2),
            "check_s": round(check_s, 2),
            "refused": refused,
            "levels": [levels[level] for level in (1, 2, 3)],
            "shared_templates": len(found.templates),
            "shared_tasks": found.tasks,
            "nearest": round(found.nearest, 2),
            "near_duplicates": found.near_duplicates,
        }
    return {
        "benchmark": "procedural",
        "rows_per_side": rows,
        "seed": seed,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "seconds": round(sum(c["make_s"] + c["check_s"] for c in categories.values()), 1),
        "categories": categories,
    }


def table(found: dict[str, Any]) -> str:
    """Return the page's measured part."""
    lines = [
        (
            f"{found['rows_per_side']} different rows of each side and category, seed {found['seed']}: "
            f"{found['seconds']} processor seconds for all of it.\n"
        ),
        (
            "| category | kinds | seconds to make | to verify | refused | levels 1, 2, 3 "
            "| templates, tasks on both sides | near duplicates | nearest pair |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in found["categories"].items():
        levels = ", ".join(map(str, one["levels"]))
        lines.append(
            f"| {name} | {one['kinds']} | {one['make_s']} | {one['check_s']} | {one['refused']} | {levels} "
            f"| {one['shared_templates']}, {one['shared_tasks']} | {one['near_duplicates']} "
            f"| {one['nearest'] or 'below 0.35'} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, write the JSON and the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    found = measure(options.rows, seed=options.seed)
    print(table(found))
    if options.output:
        options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        PART.write(table(found))


if __name__ == "__main__":
    main()
