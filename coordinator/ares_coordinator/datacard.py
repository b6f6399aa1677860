"""The card of a dataset: what is in it, who wrote it, under which licence, what was left out.

A view for people (`README.md` beside the rows), made again with the rows.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ares_coordinator.distiller.pipeline import Dataset
from ares_coordinator.store.rows import DatasetRow
from ares_p2p.files import write_atomically
from ares_p2p.ids import sha256
from ares_p2p.shards import Example
from ares_p2p.shards.format import encode_jsonl

CARD = "README.md"


def write_card(folder: Path, dataset: Dataset, row: DatasetRow) -> None:
    """Write the card of a cycle's rows.

    Raises: DiskFull.
    """
    write_atomically(folder / CARD, card_text(dataset, row).encode())


def card_text(dataset: Dataset, row: DatasetRow) -> str:
    """Return the card as Markdown."""
    rows = (*dataset.train, *dataset.eval)
    sources = Counter(
        (
            f"{one.teacher} {one.teacher_version}".strip(),
            one.licence,
            one.permission_ref,
            "checked by a program" if one.check else "filtered, a share of it judged",
        )
        for one in rows
    )
    digests = ((name, encode_jsonl(side)) for name, side in _sides(dataset))
    lines = [
        f"# Dataset of cycle {row.cycle}",
        "",
        (
            f"{len(dataset.train):,} rows to train on and {len(dataset.eval):,} held out. Which side a "
            "row is on follows from the hash of its key, for ever. The held-out rows never leave the "
            "coordinator until they are retired."
        ),
        "",
        "| category | train | held out | tokens (estimate) |",
        "|---|---:|---:|---:|",
        *(
            f"| {one.category} | {one.train_examples:,} | {one.held_out_examples:,} | {one.tokens:,} |"
            for one in row.categories
        ),
        "",
        "## Who wrote it",
        "",
        "| teacher | licence | permission | verified | rows |",
        "|---|---|---|---|---:|",
        *(
            f"| {_cell(teacher)} | {_cell(licence)} | {_cell(permission) or '-'} | {how} | {count:,} |"
            for (teacher, licence, permission, how), count in sources.most_common()
        ),
        "",
        "## What was left out",
        "",
        *(f"- {reason}: {count:,}" for reason, count in row.rejected),
        *(() if row.rejected else ("Nothing.",)),
        "",
        f"The teacher's answers cost {row.cost_microusd / 1e6:.2f} US dollars.",
        "",
        "## Files",
        "",
        *(f"- {name}: {len(data):,} bytes, sha256 {sha256(data).hex()}" for name, data in digests),
        "",
    ]
    return "\n".join(lines)


def _sides(dataset: Dataset) -> tuple[tuple[str, tuple[Example, ...]], ...]:
    return (("train.jsonl", dataset.train), ("eval.jsonl", dataset.eval))


def _cell(text: str) -> str:
    """Return a text that cannot end a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")
