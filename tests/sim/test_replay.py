"""Rows of earlier cycles in a new one's training set: which, how many, never a held-out one."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from ares_coordinator.datacard import read_facts
from ares_coordinator.distiller.filters.contamination import NgramIndex
from ares_coordinator.distiller.pipeline import Dataset, build_dataset
from ares_coordinator.distiller.procedural import ProceduralTeacher
from ares_coordinator.layout import DataLayout
from ares_coordinator.preparation import load_rows
from ares_coordinator.replay import Replay, choose_replay, replay_count, with_replay
from ares_p2p.domain import CATEGORIES
from ares_p2p.errors import ConfigFault
from ares_p2p.shards import Example, Message, split_of
from ares_p2p.shards.format import encode_jsonl
from ares_p2p.shards.manifest import build_dataset_shards
from dataset_maker import all_rows, card_of, cycle_settings, end_cycle, open_maker, rows_in

SHARE = 0.2
PER_CATEGORY = 30
FRESH = cycle_settings(examples_per_category=PER_CATEGORY, seed=-1, replay_share=SHARE)


async def make_cycle(folder: Path, cycle: int, *, promoted: bool = True, end: bool = True) -> None:
    async with open_maker(folder, FRESH, cycle=cycle) as (maker, row):
        await maker.make(row)
        if end:
            await end_cycle(maker, cycle, promoted=promoted)


def origins(folder: Path, cycle: int) -> dict[str, int]:
    found: dict[str, int] = read_facts(DataLayout(folder).dataset(cycle))["replayed"]
    return found


async def test_share_of_the_training_rows_comes_from_earlier_cycles(tmp_path: Path) -> None:
    for cycle in (1, 2, 3):
        await make_cycle(tmp_path, cycle)
    keys = {cycle: {row.key for row in rows_in(tmp_path, "train", cycle)} for cycle in (1, 2, 3)}
    assert origins(tmp_path, 1) == {}
    replayed = origins(tmp_path, 2)["1"]
    assert replayed == replay_count(len(keys[2]) - replayed, SHARE)
    assert replayed <= len(keys[1] & keys[2])  # a few tasks are so small that both cycles made them
    found = origins(tmp_path, 3)
    third = rows_in(tmp_path, "train", 3)
    assert sum(found.values()) / len(third) == pytest.approx(SHARE, abs=0.005)
    assert min(found["1"], found["2"]) > 0
    assert found["1"] <= len(keys[1] & keys[3])  # with what cycle 2 had replayed of it
    assert found["2"] <= len((keys[2] - keys[1]) & keys[3])
    again = [row for row in third if row.key in keys[1] | keys[2]]
    assert {row.category for row in again} == set(CATEGORIES)
    card = card_of(tmp_path, 3)
    assert f"| 1 | {origins(tmp_path, 3)['1']} |" in card
    assert "(20." in card or "(19." in card


async def test_no_held_out_row_of_any_cycle_is_trained_on(tmp_path: Path) -> None:
    for cycle in (1, 2, 3):
        await make_cycle(tmp_path, cycle)
    trained = {row.key for cycle in (1, 2, 3) for row in rows_in(tmp_path, "train", cycle)}
    held_out = {row.key for cycle in (1, 2, 3) for row in rows_in(tmp_path, "eval", cycle)}
    assert held_out
    assert not trained & held_out
    assert {split_of(key) for key in trained} == {"train"}


async def test_started_again_the_same_rows_are_chosen(tmp_path: Path) -> None:
    await make_cycle(tmp_path, 1)
    await make_cycle(tmp_path, 2, end=False)
    first = encode_jsonl(rows_in(tmp_path, "train", 2))
    await make_cycle(tmp_path, 2, end=False)
    assert encode_jsonl(rows_in(tmp_path, "train", 2)) == first
    assert origins(tmp_path, 2)["1"] == replay_count(
        len(rows_in(tmp_path, "train", 2)) - origins(tmp_path, 2)["1"], SHARE
    )


async def test_rows_that_the_model_never_learnt_do_not_come_again(tmp_path: Path) -> None:
    await make_cycle(tmp_path, 1, promoted=False)
    await make_cycle(tmp_path, 2)
    assert origins(tmp_path, 2) == {}
    assert len(all_rows(tmp_path, 2)) == PER_CATEGORY * len(CATEGORIES)


async def test_peers_and_auditors_get_one_dataset_with_the_replayed_rows_in_it(
    tmp_path: Path,
) -> None:
    await make_cycle(tmp_path, 1)
    await make_cycle(tmp_path, 2)
    files = DataLayout(tmp_path)
    rows = load_rows(files, 2, "train")
    manifest, shards = build_dataset_shards(rows)
    assert manifest.examples == len(rows) == sum(shard.examples for shard in shards)
    places = [n for n, row in enumerate(rows) if row.key in {r.key for r in load_rows(files, 1, "train")}]  # fmt: skip
    gaps = [after - before for before, after in pairwise(places)]
    assert max(gaps) <= 2 * len(rows) / len(places), "they are spread evenly"


async def test_cycles_that_repeat_their_rows_replay_none(tmp_path: Path) -> None:
    settings = cycle_settings(seed=3, replay_share=0.5)
    for cycle in (1, 2):
        async with open_maker(tmp_path, settings, cycle=cycle) as (maker, row):
            await maker.make(row)
            await end_cycle(maker, cycle, promoted=True)
    assert rows_in(tmp_path, "train", 1) == rows_in(tmp_path, "train", 2)


# --- written rows ------------------------------------------------------------------------------

TALE = (
    "The ferry left at dawn, and nobody on the pier waved. Mara counted the crates again, because "
    "the captain had sworn that there were twelve, and she could see eleven of them."
)
HARBOUR = (
    "Nine boats lay in the old harbour that winter. Eight of them were painted green, and the ninth "
    "belonged to a widow who sold rope, lamps and a bitter kind of tea to the sailors."
)
MILL = (
    "Above the village stands a mill whose wheel turns backwards when it rains. The miller says that "
    "his grandfather built it so on purpose, to grind yesterday's flour back into wheat."
)


def written(text: str, name: str, side: str = "train") -> Example:
    """Return a written row whose key falls on a side of the split."""
    key = next(key for n in range(1000) if split_of(key := f"creative:{name}-{n}") == side)
    turns = (Message("user", f"Write about {name}."), Message("assistant", text))
    return Example("creative", turns, key, "", "ada", "MIT")


def earlier(folder: Path, *rows: Example) -> dict[int, Path]:
    path = folder / "train.jsonl"
    path.write_bytes(encode_jsonl(rows))
    return {1: path}


def chosen(
    folder: Path, new: Dataset, *old: Example, indices: tuple[NgramIndex, ...] = ()
) -> Replay:
    return choose_replay(earlier(folder, *old), new, share=0.5, seed=1, indices=indices)


def fresh(*train: Example, held_out: tuple[Example, ...] = ()) -> Dataset:
    made = build_dataset(ProceduralTeacher(), counts={"code": 20}, seed=8)
    return Dataset((*made.train, *train), (*made.eval, *held_out), ())


def test_row_nearly_the_same_as_a_new_one_is_passed_over(tmp_path: Path) -> None:
    near = written(TALE.replace("Mara", "Ines"), "ferry")
    far = written(HARBOUR, "harbour")
    replay = chosen(tmp_path, fresh(written(TALE, "sea")), near, far)
    assert replay.rows == (far,)
    assert replay.passed_over == (("near_duplicate", 1),)


def test_row_that_quotes_what_is_held_out_now_is_passed_over(tmp_path: Path) -> None:
    quoting = written(f"{MILL} {HARBOUR} {TALE[:100]}", "mill")
    held_out = written(TALE, "sea", side="eval")
    replay = chosen(tmp_path, fresh(held_out=(held_out,)), quoting)
    assert replay.rows == ()
    assert replay.passed_over == (("contaminated:held out in this cycle", 1),)


def test_row_that_quotes_a_newer_benchmark_is_passed_over(tmp_path: Path) -> None:
    index = NgramIndex.of("boats", [HARBOUR])
    replay = chosen(tmp_path, fresh(), written(HARBOUR, "harbour"), written(MILL, "mill"), indices=(index,))  # fmt: skip
    assert [row.answer for row in replay.rows] == [MILL]
    assert replay.passed_over == (("contaminated:boats", 1),)


def test_rows_are_no_near_duplicates_of_themselves(tmp_path: Path) -> None:
    old = [written(HARBOUR, "harbour"), written(MILL, "mill"), written(TALE, "sea")]
    first = chosen(tmp_path, fresh(), *old)
    assert set(first.rows) == set(old)
    again = chosen(tmp_path, with_replay(fresh(), Replay()), *old)
    assert again == first


def test_held_out_row_in_a_training_file_is_not_taken(tmp_path: Path) -> None:
    strayed = written(MILL, "mill", side="eval")
    assert chosen(tmp_path, fresh(), strayed, written(TALE, "sea")).rows == (written(TALE, "sea"),)


def test_damaged_file_is_named(tmp_path: Path) -> None:
    path = earlier(tmp_path, written(TALE, "sea"))[1]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigFault, match="is damaged"):
        choose_replay({1: path}, fresh(), share=0.5, seed=1, indices=())
    row = encode_jsonl([written(TALE, "sea")])
    path.write_bytes(row.replace(b'"category":"creative"', b'"category":"sports"'))
    with pytest.raises(ConfigFault, match="is damaged"):
        choose_replay({1: path}, fresh(), share=0.5, seed=1, indices=())


@pytest.mark.parametrize(("train", "share", "count"), [(80, 0.2, 20), (10, 0.0, 0), (7, 0.5, 7)])
def test_count_is_a_share_of_all(train: int, share: float, count: int) -> None:
    assert replay_count(train, share) == count
