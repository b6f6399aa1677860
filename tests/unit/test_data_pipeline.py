"""generate -> verify -> filter -> split: deterministic, different rows, bounded, honest counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from ares_coordinator.distiller.filters import Deduplicator, Reject, fold
from ares_coordinator.distiller.filters.contamination import ContaminationFilter, NgramIndex
from ares_coordinator.distiller.pipeline import Progress, build_dataset
from ares_coordinator.distiller.procedural import ProceduralTeacher
from ares_coordinator.distiller.teacher import MAX_COUNT
from ares_p2p.errors import TeacherFault
from ares_p2p.shards import CATEGORIES, Example, Message, encode_jsonl, split_of

COUNTS = dict.fromkeys(CATEGORIES, 40)


class Stubborn(ProceduralTeacher):
    """Says the same few things again and again, some of them wrong."""

    def generate(self, category: str, count: int, *, seed: int, start: int) -> Iterator[Example]:
        for index in range(start, start + count):
            row = self.example(category, index % 10, seed=seed)
            if index % 10 == 3:
                row = replace(row, messages=(*row.messages[:-1], Message("assistant", "No idea.")))
            yield row


def test_dataset_is_a_function_of_counts_and_seed() -> None:
    first = build_dataset(ProceduralTeacher(), counts=COUNTS, seed=5)
    again = build_dataset(ProceduralTeacher(), counts=COUNTS, seed=5)
    other = build_dataset(ProceduralTeacher(), counts=COUNTS, seed=6)
    assert encode_jsonl(first.train) == encode_jsonl(again.train)
    assert first == again
    assert first.train != other.train


def test_dataset_has_what_was_asked_split_by_key() -> None:
    dataset = build_dataset(ProceduralTeacher(), counts=COUNTS, seed=5)
    rows = [*dataset.train, *dataset.eval]
    assert {c: sum(row.category == c for row in rows) for c in CATEGORIES} == COUNTS
    assert {split_of(row.key) for row in dataset.train} == {"train"}
    assert {split_of(row.key) for row in dataset.eval} == {"eval"}
    assert len({row.key for row in rows}) == len(rows)
    assert {row.category for row in dataset.train[:16]} == set(CATEGORIES)


def test_progress_is_reported_and_can_stop_the_build() -> None:
    seen: list[Progress] = []
    build_dataset(ProceduralTeacher(), counts={"code": 100}, seed=1, on_progress=seen.append)
    assert seen[-1] == Progress("code", 100, 100)
    assert len(seen) > 1

    def stop(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_dataset(ProceduralTeacher(), counts={"code": 100}, seed=1, on_progress=stop)


def test_teacher_without_enough_rows_is_named() -> None:
    with pytest.raises(TeacherFault, match="9 different rows of instruction"):
        build_dataset(Stubborn(), counts={"instruction": 10}, seed=1)


def test_rejects_are_counted_by_reason() -> None:
    dataset = build_dataset(Stubborn(), counts={"instruction": 9}, seed=1)
    assert len(dataset.train) + len(dataset.eval) == 9
    reasons = dict(dataset.rejected)
    assert reasons["unverified"] >= 1
    assert reasons["duplicate_key"] >= 9


def test_forbidden_keys_never_enter() -> None:
    sealed = build_dataset(ProceduralTeacher(), counts={"roleplay": 50}, seed=2)
    keys = frozenset(row.key for row in (*sealed.train, *sealed.eval))
    dataset = build_dataset(
        ProceduralTeacher(), counts={"roleplay": 50}, seed=2, forbidden_keys=keys
    )
    assert not keys & {row.key for row in (*dataset.train, *dataset.eval)}
    assert dict(dataset.rejected)["contaminated"] >= 50


def test_row_that_quotes_a_benchmark_never_enters_whoever_made_it() -> None:
    free = build_dataset(ProceduralTeacher(), counts={"creative": 40}, seed=2)
    made, given = free.train[0], free.train[1]
    index = NgramIndex.of("bench", [made.messages[0].content, given.messages[0].content])
    dataset = build_dataset(
        ProceduralTeacher(),
        counts={"creative": 40},
        seed=2,
        given=[given],
        leave_out=ContaminationFilter([index]),
    )
    rows = [*dataset.train, *dataset.eval]
    assert len(rows) == 40
    assert not {made.key, given.key} & {row.key for row in rows}
    assert dict(dataset.rejected)["contaminated:bench"] >= 2


@pytest.mark.parametrize("counts", [{"poetry": 1}, {"code": -1}, {"code": MAX_COUNT + 1}])
def test_counts_are_bounded(counts: dict[str, int]) -> None:
    with pytest.raises(TeacherFault):
        build_dataset(ProceduralTeacher(), counts=counts, seed=0)


def test_seeds_of_the_base_are_refused() -> None:
    with pytest.raises(TeacherFault):
        build_dataset(ProceduralTeacher(), counts={"code": 1}, seed=-1)


def test_fold_ignores_case_width_and_spaces() -> None:
    assert fold("  Ｈello\n WORLD ") == fold("hello world")


def test_deduplicator_refuses_the_same_words_under_another_key() -> None:
    row = ProceduralTeacher().example("instruction", 0, seed=0)
    deduplicate = Deduplicator()
    assert deduplicate(row) == row
    louder = replace(
        row,
        key="other",
        messages=(Message("user", row.messages[0].content.upper()), row.messages[1]),
    )
    assert deduplicate(louder) == Reject("duplicate_text", "other")
