"""From a teacher to a dataset: generate, verify, deduplicate, split.

A dataset is a pure function of (teacher, counts, seed): starting again after a crash gives the
same rows, so there is nothing to save in between. A row whose check fails is counted and left
out, never repaired. Rows of a teacher without checks pass the verifier untouched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from ares_coordinator.distiller.filters import Deduplicator, Reject
from ares_coordinator.distiller.filters.base import Filter
from ares_coordinator.distiller.procedural import verify_all
from ares_coordinator.distiller.teacher import Teacher, check_counts
from ares_p2p.errors import TeacherFault
from ares_p2p.shards import CATEGORIES, Example, split_of

BATCH: Final = 64  # rows between two reports of progress
MAX_TRIES: Final = 20  # rows asked for, per row wanted, before a teacher counts as exhausted


@dataclass(frozen=True, slots=True)
class Dataset:
    """Rows on their side of the split, and how many were left out for which reason."""

    train: tuple[Example, ...]
    eval: tuple[Example, ...]
    rejected: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a build is: rows accepted of rows wanted in `category`."""

    category: str
    accepted: int
    wanted: int


def interleaved(parts: Sequence[Sequence[Example]]) -> list[Example]:
    """Return the rows of all parts, each part spread evenly and in its own order."""
    placed = [
        ((i + 0.5) / len(part), n, row)
        for n, part in enumerate(parts)
        for i, row in enumerate(part)
    ]
    return [row for _, _, row in sorted(placed, key=lambda item: item[:2])]


def _no_report(_: Progress) -> None:
    return None


def _nothing(_: Example) -> Reject | None:
    return None


def _judge(
    batch: Sequence[Example], deduplicate: Deduplicator, leave_out: Filter
) -> list[Example | Reject]:
    refusals = verify_all([example for example in batch if example.check])
    remaining = iter(refusals)
    judged: list[Example | Reject] = []
    for example in batch:
        refusal = next(remaining) if example.check else None
        if refusal is not None:
            judged.append(Reject("unverified", refusal.message))
        elif not example.licence:
            judged.append(Reject("unlicensed", example.key))
        else:
            judged.append(leave_out(example) or deduplicate(example))
    return judged


def _category_rows(
    teacher: Teacher, category: str, *, count: int, seed: int, given: Sequence[Example],
    deduplicate: Deduplicator, leave_out: Filter, rejected: Counter[str],
    on_progress: Callable[[Progress], None],
) -> list[Example]:  # fmt: skip
    rows = [row for row in given if row.category == category]
    source = teacher.generate(category, count * MAX_TRIES, seed=seed, start=0)
    while len(rows) < count:
        batch = list(islice(source, BATCH))
        if not batch:
            raise TeacherFault(
                f"{teacher.name} has {len(rows)} different rows of {category}, {count} were asked",
                hint="Ask for fewer examples of this category.",
            )
        for judged in _judge(batch, deduplicate, leave_out):
            if isinstance(judged, Reject):
                rejected[judged.label] += 1
            elif len(rows) < count:
                rows.append(judged)
        on_progress(Progress(category, len(rows), count))
    return rows


def build_dataset(
    teacher: Teacher,
    *,
    counts: Mapping[str, int],
    seed: int,
    given: Sequence[Example] = (),
    forbidden_keys: frozenset[str] = frozenset(),
    leave_out: Filter = _nothing,
    on_progress: Callable[[Progress], None] = _no_report,
) -> Dataset:
    """Return verified, different rows, split by their keys.

    Args:
        teacher: who writes the rows.
        counts: category -> rows wanted, both sides of the split together; given ones may be more.
        seed: of the cycle; 0 and up.
        given: rows from elsewhere, screened already; they count, and the teacher makes the rest.
        forbidden_keys: keys of sealed sets, which never enter a dataset.
        leave_out: a filter for every row, given or made: what was screened once may meet an index
            that is newer.
        on_progress: called after every batch; may raise to stop the build.
    Returns: rows interleaved over the categories, so that every stretch of them is mixed.
    Raises: TeacherFault: counts out of range, or a teacher that has no more different rows.
    """
    check_counts(counts)
    if seed < 0:
        raise TeacherFault(f"seed {seed}: negative seeds belong to the shipped base")
    rejected: Counter[str] = Counter()
    deduplicate = Deduplicator(forbidden_keys)
    taken = []
    for row in given:
        result = leave_out(row) or deduplicate(row)
        if isinstance(result, Reject):
            rejected[result.label] += 1
        else:
            taken.append(row)
    parts = [
        _category_rows(
            teacher, category, count=counts.get(category, 0), seed=seed, given=taken,
            deduplicate=deduplicate, leave_out=leave_out, rejected=rejected, on_progress=on_progress,
        )
        for category in CATEGORIES
    ]  # fmt: skip
    rows = interleaved(parts)
    return Dataset(
        train=tuple(row for row in rows if split_of(row.key) == "train"),
        eval=tuple(row for row in rows if split_of(row.key) == "eval"),
        rejected=tuple(sorted(rejected.items())),
    )
