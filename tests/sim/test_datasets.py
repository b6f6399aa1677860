"""A cycle's rows with a teacher that is asked, that refuses, that is away, and with imported ones."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ares_coordinator.datasets import TAUGHT, DatasetMaker
from ares_coordinator.distiller.apikey import VARIABLE
from ares_coordinator.distiller.procedural import ProceduralTeacher
from ares_coordinator.layout import DataLayout
from ares_coordinator.settings import CoordinatorSettings
from ares_coordinator.store.rows import CycleRow, DatasetRow
from ares_coordinator.store.thread import StoreThread
from ares_p2p.domain import CATEGORIES
from ares_p2p.errors import (
    TeacherAway,
    TeacherBudgetSpent,
    TeacherFault,
    TeacherKeyRefused,
    TeacherNotPermitted,
    TeacherUnpaid,
)
from ares_p2p.shards import Example
from ares_p2p.shards.format import decode_jsonl, encode_jsonl
from teacher_answers import answer_for
from teacher_clock import JumpClock
from teacher_desk import PERMISSION, teacher_settings
from teacher_server import BAD_KEY, KEY, UNPAID, TeacherServer

ROWS = 3  # of each category


@asynccontextmanager
async def maker_in(
    folder: Path, server: TeacherServer | None = None, say: Any = lambda _: None, **changes: Any
) -> AsyncIterator[tuple[DatasetMaker, CycleRow]]:
    teacher = {} if server is None else teacher_settings(server, **changes).model_dump()
    settings = CoordinatorSettings.model_validate(
        {
            "network": {"name": "rows"},
            "data": {"examples_per_category": ROWS, "seed": 3},
            "teacher": teacher,
        }
    )
    db = await StoreThread.open(folder / "ares.db")
    try:
        row = await db.call(db.store.cycle, 1) or await db.call(
            db.store.begin_cycle,
            1,
            now_ms=1,
            secret_seed=bytes(32),
            assignment_key=bytes(32),
        )
        yield DatasetMaker(settings, DataLayout(folder), db, JumpClock(), say), row
    finally:
        await db.close()


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, KEY)


def all_rows(folder: Path) -> list[Example]:
    data = DataLayout(folder).dataset(1)
    return [row for side in ("train", "eval") for row in decode_jsonl((data / f"{side}.jsonl").read_bytes())]  # fmt: skip


def sizes(found: DatasetRow) -> dict[str, int]:
    return {one.category: one.train_examples + one.held_out_examples for one in found.categories}


async def test_rows_of_a_teacher_name_their_permission_and_so_does_the_card(tmp_path: Path) -> None:
    async with TeacherServer(answer_for) as server, maker_in(tmp_path, server) as (maker, row):
        found, fallback = await maker.make(row)
        spent = await maker.db.call(maker.db.store.request_totals, 1)
    rows = all_rows(tmp_path)
    assert fallback == ""
    assert sizes(found) == dict.fromkeys(CATEGORIES, ROWS)
    assert {one.permission_ref for one in rows} == {PERMISSION}
    assert {one.licence for one in rows} == {"LicenseRef-Test"}
    assert found.cost_microusd == sum(one.cost_microusd for one in spent) > 0
    card = (DataLayout(tmp_path).dataset(1) / "README.md").read_text(encoding="utf-8")
    assert PERMISSION in card
    assert f"{found.cost_microusd / 1e6:.2f} US dollars" in card
    assert decode_jsonl((DataLayout(tmp_path).raw_rows(1) / TAUGHT).read_bytes())


async def test_rows_made_again_are_the_same_and_cost_nothing(tmp_path: Path) -> None:
    async with TeacherServer(answer_for) as server:
        async with maker_in(tmp_path, server) as (maker, row):
            first, _ = await maker.make(row)
        before, asked = all_rows(tmp_path), len(server.bodies)
        async with maker_in(tmp_path, server) as (maker, row):
            again, _ = await maker.make(row)
        assert len(server.bodies) == asked
    assert all_rows(tmp_path) == before
    assert again.cost_microusd == first.cost_microusd


class Killed(Exception):
    """The process ended here."""


async def test_killed_while_it_generates_it_goes_on_and_asks_nothing_twice(tmp_path: Path) -> None:
    said: list[str] = []

    def die_early(text: str) -> None:
        said.append(text)
        if len(said) == 3:
            raise Killed

    async with TeacherServer(answer_for) as server:
        async with maker_in(tmp_path, server, say=die_early) as (maker, row):
            with pytest.raises(Killed):
                await maker.make(row)
        async with maker_in(tmp_path, server) as (maker, row):
            found, _ = await maker.make(row)
        assert set(server.asked.values()) == {1}
    assert sizes(found) == dict.fromkeys(CATEGORIES, ROWS)


FAULTS: dict[str, tuple[type[Exception], dict[str, Any]]] = {
    "no permission": (TeacherNotPermitted, {"permission_ref": ""}),
    "spent": (TeacherBudgetSpent, {"cap_usd_per_run": 0.0}),
    "bad key": (TeacherKeyRefused, {}),
    "no credit": (TeacherUnpaid, {}),
    "away": (TeacherAway, {}),
}


@asynccontextmanager
async def troubled(name: str) -> AsyncIterator[TeacherServer]:
    async with TeacherServer(answer_for) as server:
        fault = {"bad key": BAD_KEY, "no credit": UNPAID}.get(name)
        server.fault_of = lambda _: fault
        if name == "away":
            await server.close()
        yield server


@pytest.mark.parametrize("name", FAULTS)
async def test_told_to_wait_it_raises_and_loses_nothing(tmp_path: Path, name: str) -> None:
    kind, changes = FAULTS[name]
    async with troubled(name) as server, maker_in(tmp_path, server, **changes) as (maker, row):
        with pytest.raises(kind):
            await maker.make(row)
        if name == "no permission":
            assert server.bodies == []
        assert not DataLayout(tmp_path).dataset(1).exists()


@pytest.mark.parametrize("name", FAULTS)
async def test_told_to_fall_back_a_program_makes_the_rest_and_it_says_why(
    tmp_path: Path, name: str
) -> None:
    kind, changes = FAULTS[name]
    settings = {**changes, "fallback": "procedural"}
    async with troubled(name) as server, maker_in(tmp_path, server, **settings) as (maker, row):
        found, fallback = await maker.make(row)
    assert issubclass(kind, TeacherFault | TeacherAway)
    assert kind.code in fallback
    assert sizes(found) == dict.fromkeys(CATEGORIES, ROWS)
    assert {one.teacher for one in all_rows(tmp_path)} == {"procedural"}


async def test_imported_rows_count_and_only_the_rest_is_made(tmp_path: Path) -> None:
    own = [
        Example("code", one.messages, f"import:{n}", "", "ada", "MIT")
        for n, one in enumerate(ProceduralTeacher().generate("creative", 2, seed=99, start=0))
    ]
    folder = DataLayout(tmp_path).raw_rows(1)
    folder.mkdir(parents=True)
    (folder / "import-a.jsonl").write_bytes(encode_jsonl(own))
    async with maker_in(tmp_path) as (maker, row):
        found, _ = await maker.make(row)
    code = [one for one in all_rows(tmp_path) if one.category == "code"]
    assert len(code) == ROWS
    assert {one.key for one in own} < {one.key for one in code}
    assert found.teacher == "procedural 1, ada"
