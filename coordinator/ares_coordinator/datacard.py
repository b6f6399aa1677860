"""The card of a dataset: what is in it, who wrote it, under which licence, what was left out.

A view for people (`README.md` beside the rows), made again with the rows, and for programs what
nothing else keeps (`card.json`).
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ares_coordinator.distiller.pipeline import Dataset
from ares_coordinator.replay import Replay
from ares_coordinator.store.rows import DatasetRow
from ares_p2p.files import write_atomically
from ares_p2p.ids import sha256
from ares_p2p.shards import Example
from ares_p2p.shards.format import encode_jsonl

CARD = "README.md"
FACTS = "card.json"


@dataclass(frozen=True, slots=True)
class CardFacts:
    """How a dataset came about, beyond its rows.

    Attributes:
        replay: the rows of earlier cycles in it.
        compared_with: (evaluation set, runs of words) of those that no row may quote.
        fallback: why a program made what the teacher was asked for; "" when it did not.
    """

    replay: Replay = field(default_factory=Replay)
    compared_with: tuple[tuple[str, int], ...] = ()
    fallback: str = ""


def write_card(folder: Path, dataset: Dataset, row: DatasetRow, facts: CardFacts) -> None:
    """Write the card of a cycle's rows.

    Raises: DiskFull.
    """
    write_atomically(folder / CARD, card_text(dataset, row, facts).encode())
    kept = {
        "replayed": {str(cycle): count for cycle, count in facts.replay.origins},
        "replay_wanted": facts.replay.wanted,
        "replay_passed_over": dict(facts.replay.passed_over),
        "compared_with": dict(facts.compared_with),
        "fallback": facts.fallback,
    }
    write_atomically(folder / FACTS, json.dumps(kept, indent=1).encode() + b"\n")


def read_facts(folder: Path) -> dict[str, Any]:
    """Return what `write_card` keeps for programs; empty where there is none."""
    path = folder / FACTS
    return dict(json.loads(path.read_bytes())) if path.is_file() else {}


def card_text(dataset: Dataset, row: DatasetRow, facts: CardFacts) -> str:
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
        *_fallback_lines(facts),
        *_replay_lines(facts.replay, len(dataset.train)),
        "## What was left out",
        "",
        *(f"- {reason}: {count:,}" for reason, count in row.rejected),
        *(() if row.rejected else ("Nothing.",)),
        "",
        *_compared_lines(facts),
        f"The teacher's answers cost {row.cost_microusd / 1e6:.2f} US dollars.",
        "",
        "## Files",
        "",
        *(f"- {name}: {len(data):,} bytes, sha256 {sha256(data).hex()}" for name, data in digests),
        "",
    ]
    return "\n".join(lines)


def _fallback_lines(facts: CardFacts) -> list[str]:
    if not facts.fallback:
        return []
    return [f"A program made the rest in the teacher's place: {_cell(facts.fallback)}", ""]


def _replay_lines(replay: Replay, train: int) -> list[str]:
    if not replay.wanted:
        return []
    share = len(replay.rows) / max(1, train)
    lines = [
        "## Replayed from earlier cycles",
        "",
        (
            f"{len(replay.rows):,} of the rows to train on ({share:.1%}) come again, so that less is "
            f"forgotten; {replay.wanted:,} were looked for. None is of a held-out side."
        ),
        "",
        "| first in cycle | rows |",
        "|---:|---:|",
        *(f"| {cycle} | {count:,} |" for cycle, count in replay.origins),
        "",
    ]
    if replay.passed_over:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in replay.passed_over)
        lines += [f"Passed over: {_cell(reasons)}.", ""]
    return lines


def _compared_lines(facts: CardFacts) -> list[str]:
    if not facts.compared_with:
        return ["No index of a public benchmark was there to compare the rows with.", ""]
    names = ", ".join(f"{name} ({runs:,})" for name, runs in facts.compared_with)
    return [f"No row holds a run of words of: {_cell(names)}; in brackets, the runs.", ""]


def _sides(dataset: Dataset) -> tuple[tuple[str, tuple[Example, ...]], ...]:
    return (("train.jsonl", dataset.train), ("eval.jsonl", dataset.eval))


def _cell(text: str) -> str:
    """Return a text that cannot end a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")
