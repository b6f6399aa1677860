"""Write the seed examples that ship: `python data/recipe/seeds.py --out data/seeds`.

One file for each category: verified rows of the procedural teacher under seed 0, in canonical
JSONL. The same command gives the same bytes again; a test compares.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from ares_coordinator.distiller.filters import Deduplicator
from ares_coordinator.distiller.procedural import ProceduralTeacher, verify_all
from ares_p2p.shards import CATEGORIES, Example, encode_jsonl

SEED: Final = 0
PER_CATEGORY: Final = 100


def seed_rows(category: str, *, count: int = PER_CATEGORY) -> list[Example]:
    """Return the first `count` different rows of a category.

    Raises: PayloadMalformed: a row does not verify.
    """
    teacher, deduplicate = ProceduralTeacher(), Deduplicator()
    rows: list[Example] = []
    for example in teacher.generate(category, 20 * count, seed=SEED, start=0):
        if len(rows) == count:
            break
        if isinstance(deduplicate(example), Example):
            rows.append(example)
    for refusal in verify_all(rows):
        if refusal is not None:
            raise refusal
    return rows


def main() -> None:
    """Read the command line and write the files."""
    parser = argparse.ArgumentParser(description="Write the seed examples that ship.")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).resolve().parent.parent / "seeds"
    )
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for category in CATEGORIES:
        path = out / f"{category}.jsonl"
        path.write_bytes(encode_jsonl(seed_rows(category)))
        print(f"{path} {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
