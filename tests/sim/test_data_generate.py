"""`data generate` with a teacher that is asked: gaps are asked for again, what is missing is said."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from ares_coordinator.commands.data import app
from ares_coordinator.datasets import read_imported, read_left_out
from ares_coordinator.distiller.apikey import VARIABLE
from ares_coordinator.layout import DataLayout
from ares_coordinator.rowbook import Imported
from ares_coordinator.rowmaking import write_rows
from ares_coordinator.settings import TeacherSection, write_settings
from ares_p2p.errors import TeacherBudgetSpent, TeacherNotPermitted, TeacherUnpaid
from ares_p2p.shards.format import encode_jsonl
from dataset_maker import all_rows, cycle_settings, open_maker
from teacher_answers import answer_for, number_of
from teacher_desk import PERMISSION, teacher_settings
from teacher_server import KEY, UNPAID, Fault, TeacherServer

REFUSAL = "I'm sorry, but I can't help with that request."


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, KEY)
    monkeypatch.delenv("ARES_DATABASE_URL", raising=False)


async def generate(folder: Path, teacher: TeacherSection, count: int = 12) -> Imported:
    return await write_rows(
        cycle_settings(teacher),
        DataLayout(folder),
        folder / "ares.db",
        "creative",
        count,
        on_progress=lambda _: None,
    )


def some_refuse(body: dict[str, Any]) -> str:
    text = answer_for(body)
    return REFUSAL if "output_config" not in body and number_of(text) % 3 == 0 else text


async def test_what_the_filters_leave_out_is_asked_for_again(tmp_path: Path) -> None:
    async with TeacherServer(some_refuse) as server:
        found = await generate(tmp_path, teacher_settings(server, judge_share=0.0))
    assert found.accepted == {"creative": 12}
    assert (found.short, found.fault) == ("", None)
    assert found.rejected["refusal"] >= 1
    assert len(read_imported(DataLayout(tmp_path), 1)) == 12
    assert read_left_out(DataLayout(tmp_path), 1) == found.rejected


async def test_rows_generated_before_are_in_the_cycle_with_what_was_left_out(
    tmp_path: Path,
) -> None:
    async with TeacherServer(some_refuse) as server:
        made = await generate(tmp_path, teacher_settings(server, judge_share=0.0), 3)
    settings = cycle_settings()
    async with open_maker(tmp_path, settings) as (maker, row):
        found, _ = await maker.make(row)
    creative = [one for one in all_rows(tmp_path) if one.category == "creative"]
    assert {one.permission_ref for one in creative} == {PERMISSION}
    assert dict(found.rejected).get("refusal", 0) == made.rejected["refusal"]


async def test_killed_it_plans_the_same_again_and_pays_nothing_twice(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def die(done: int) -> None:
        raise Killed

    async with TeacherServer(answer_for) as server:
        teacher = teacher_settings(server)
        with pytest.raises(Killed):
            await write_rows(
                cycle_settings(teacher), DataLayout(tmp_path), tmp_path / "ares.db", "creative", 12,
                on_progress=die,
            )  # fmt: skip
        asked = len(server.bodies)
        assert asked
        first = await generate(tmp_path, teacher)
        assert set(server.asked.values()) == {1}
        async with TeacherServer(answer_for) as undisturbed:
            (tmp_path / "other").mkdir()
            await generate(tmp_path / "other", teacher_settings(undisturbed))
        assert set(server.asked) == set(undisturbed.asked), "paid answers were not used"
        more = await generate(tmp_path, teacher)
        assert set(server.asked.values()) == {1}
    assert first.accepted.total() == more.accepted.total() == 12
    rows = read_imported(DataLayout(tmp_path), 1)
    assert len({row.key for row in rows}) == len(rows) == 24


async def test_a_teacher_that_always_refuses_leaves_a_gap_that_is_explained(tmp_path: Path) -> None:
    async with TeacherServer(lambda body: answer_for(body)) as server:
        server.fault_of = lambda body: Fault(refusal="bio") if "output_config" not in body else None
        found = await generate(tmp_path, teacher_settings(server), 3)
    assert found.accepted.total() == 0
    assert found.short == "creative: 12 tasks gave 0 usable rows"
    assert found.rejected == Counter(refusal_bio=12)


async def test_a_cap_keeps_what_is_there_and_says_what_is_missing(tmp_path: Path) -> None:
    async with TeacherServer(answer_for) as server:
        found = await generate(tmp_path, teacher_settings(server, cap_usd_per_category=0.15), 60)
    have = found.accepted.total()
    assert 0 < have < 60
    assert "a category leaves" in found.short
    assert found.fault is None  # of the category alone: the run itself went on to its end
    async with TeacherServer(answer_for) as server:
        capped = teacher_settings(server, cap_usd_per_run=0.0)
        found = await generate(tmp_path, capped, 60)
    assert isinstance(found.fault, TeacherBudgetSpent)
    assert "a run leaves" in found.short
    assert len(read_imported(DataLayout(tmp_path), 1)) == have


async def command(folder: Path, *arguments: str) -> Result:
    """Run the real command beside the stand-in, which needs the event loop."""
    return await asyncio.to_thread(
        CliRunner().invoke, app, ["generate", *arguments, "--data-dir", str(folder)]
    )


async def test_command_shows_what_came_and_then_the_fault(tmp_path: Path) -> None:
    async with TeacherServer(answer_for) as server:
        write_settings(tmp_path, cycle_settings(teacher_settings(server)))
        ask = ["--category", "creative", "--count", "9", "--yes"]
        found = await command(tmp_path, *ask, "--json")
        assert json.loads(found.stdout)["missing"] == 0
        server.fault_of = lambda _: UNPAID
        found = await command(tmp_path, *ask)
    assert isinstance(found.exception, TeacherUnpaid)
    assert "0 rows for cycle 1" in found.stdout
    assert "9 of 9 are missing: creative: the teacher's account has no credit" in found.stderr


async def test_without_permission_nothing_leaves(tmp_path: Path) -> None:
    async with TeacherServer(answer_for) as server:
        with pytest.raises(TeacherNotPermitted):
            await generate(tmp_path, teacher_settings(server, permission_ref=""))
        assert (server.bodies, server.models_asked) == ([], 0)


async def test_program_makes_as_many_as_were_asked_also_beside_the_same_ones(
    tmp_path: Path,
) -> None:
    first = await generate(tmp_path, TeacherSection(), 40)
    second = await generate(tmp_path, TeacherSection(), 40)
    assert first.accepted.total() == second.accepted.total() == 40
    rows = read_imported(DataLayout(tmp_path), 1)
    assert len(set(encode_jsonl(rows).splitlines())) == 80
