"""A cycle's rows with a teacher that is asked, that refuses, that is away, and with imported ones."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ares_coordinator.commands.data import app
from ares_coordinator.datacard import read_facts
from ares_coordinator.datasets import TAUGHT, DatasetMaker
from ares_coordinator.distiller.apikey import VARIABLE
from ares_coordinator.distiller.filters.contamination import NgramIndex
from ares_coordinator.distiller.procedural import ProceduralTeacher
from ares_coordinator.layout import DataLayout
from ares_coordinator.settings import write_settings
from ares_coordinator.store.request_rows import RequestState
from ares_coordinator.store.rows import CycleRow, DatasetRow
from ares_p2p.domain import CATEGORIES
from ares_p2p.errors import (
    TeacherAway,
    TeacherBudgetSpent,
    TeacherFault,
    TeacherKeyRefused,
    TeacherModelUnknown,
    TeacherNotPermitted,
    TeacherUnpaid,
)
from ares_p2p.shards import Example, Message
from ares_p2p.shards.format import decode_jsonl, encode_jsonl
from dataset_maker import ROWS, all_rows, card_of, cycle_settings, open_maker
from teacher_answers import answer_for, number_of
from teacher_child import fork_server, make
from teacher_desk import PERMISSION, teacher_settings, totals
from teacher_server import BAD_KEY, KEY, UNPAID, Fault, TeacherServer


def maker_in(
    folder: Path, server: TeacherServer | None = None, say: Any = lambda _: None, **changes: Any
) -> AbstractAsyncContextManager[tuple[DatasetMaker, CycleRow]]:
    teacher = None if server is None else teacher_settings(server, **changes)
    return open_maker(folder, cycle_settings(teacher), say=say)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, KEY)
    monkeypatch.delenv("ARES_DATABASE_URL", raising=False)


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
    card = card_of(tmp_path)
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


WHOLE = "Seven kites were tied to the roof of the mill, and the wind took only the red one away."
KILLS = 5
MANY = 12  # rows of each category, where it takes a while
FREE = {"claude-opus-9": {"input": 0, "output": 0, "cache_write": 0, "cache_read": 0}}
FAULTS: dict[str, tuple[type[Exception], dict[str, Any]]] = {
    "no permission": (TeacherNotPermitted, {"permission_ref": ""}),
    "spent": (TeacherBudgetSpent, {"cap_usd_per_run": 0.0}),
    "a category spent": (TeacherBudgetSpent, {"cap_usd_per_category": 0.08}),
    "bad key": (TeacherKeyRefused, {}),
    "no key": (TeacherKeyRefused, {"base_url": ""}),
    "wrong model": (TeacherModelUnknown, {"model": "claude-opus-9", "prices": FREE}),
    "model without prices": (TeacherModelUnknown, {"model": "claude-opus-9"}),
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
async def test_told_to_wait_it_raises_and_loses_nothing(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "no key":
        monkeypatch.delenv(VARIABLE)
    kind, changes = FAULTS[name]
    async with troubled(name) as server, maker_in(tmp_path, server, **changes) as (maker, row):
        with pytest.raises(kind):
            await maker.make(row)
        if name == "no permission":
            assert server.bodies == []
        assert not DataLayout(tmp_path).dataset(1).exists()


@pytest.mark.parametrize("name", FAULTS)
async def test_told_to_fall_back_a_program_makes_the_rest_and_it_says_why(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "no key":
        monkeypatch.delenv(VARIABLE)
    kind, changes = FAULTS[name]
    settings = {**changes, "fallback": "procedural"}
    async with troubled(name) as server, maker_in(tmp_path, server, **settings) as (maker, row):
        found, fallback = await maker.make(row)
    assert issubclass(kind, TeacherFault | TeacherAway)
    assert kind.code in fallback
    assert sizes(found) == dict.fromkeys(CATEGORIES, ROWS)
    teachers = {one.teacher for one in all_rows(tmp_path)}
    assert "procedural" in teachers
    if name != "a category spent":  # the others went on
        assert teachers == {"procedural"}
    assert kind.code in card_of(tmp_path)


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
    assert found.teacher == f"procedural {ProceduralTeacher().version}, ada"


async def test_quotes_of_a_benchmark_are_counted_by_its_name_in_every_cycle(tmp_path: Path) -> None:
    """The teacher quotes it: what was left out is asked for again, and card and statistics say so."""
    quote = "The ferry left at dawn and nobody on the long grey pier waved until it was gone."
    sets = DataLayout(tmp_path).evaluation_sets
    sets.mkdir(parents=True)
    NgramIndex.of("sea-bench", [quote]).save(sets / "sea-bench.ngrams")
    NgramIndex.of("other", ["nine words that nobody says and nobody ever will"]).save(
        sets / "other.ngrams"
    )

    def answer(body: dict[str, Any]) -> str:
        text = answer_for(body)
        is_quoting = "output_config" not in body and number_of(text) % 5 == 0
        return f"{text} {quote}" if is_quoting else text

    async with TeacherServer(answer) as server, maker_in(tmp_path, server) as (maker, row):
        found, fallback = await maker.make(row)
    assert fallback == ""
    assert sizes(found) == dict.fromkeys(CATEGORIES, ROWS)
    count = dict(found.rejected)["contaminated:sea-bench"]
    assert count >= 1
    assert not any(quote in one.answer for one in all_rows(tmp_path))
    card = card_of(tmp_path)
    assert f"- contaminated:sea-bench: {count}" in card
    assert "No row holds a run of words of: other (1), sea-bench (5)" in card
    assert read_facts(DataLayout(tmp_path).dataset(1))["compared_with"] == {
        "other": 1,
        "sea-bench": 5,
    }


async def test_index_that_is_newer_than_an_import_still_counts(tmp_path: Path) -> None:
    text = "Nine boats lay in the old harbour, and eight of them were painted green that year."
    turns = (Message("user", "Tell me of the boats."), Message("assistant", text))
    own = [Example("code", turns, "import:boats", "", "ada", "MIT")]
    files = DataLayout(tmp_path)
    files.raw_rows(1).mkdir(parents=True)
    (files.raw_rows(1) / "import-a.jsonl").write_bytes(encode_jsonl(own))
    (files.raw_rows(1) / "import-a.left-out.json").write_text('{"refusal": 4}')
    files.evaluation_sets.mkdir()
    NgramIndex.of("boats", [text]).save(files.evaluation_sets / "boats.ngrams")
    async with maker_in(tmp_path) as (maker, row):
        found, _ = await maker.make(row)
    assert {one.teacher for one in all_rows(tmp_path)} == {"procedural"}
    assert (dict(found.rejected)["contaminated:boats"], dict(found.rejected)["refusal"]) == (1, 4)


async def test_category_that_gives_nothing_is_filled_up_and_said(tmp_path: Path) -> None:
    """Also when told to wait: asked again, the teacher would say the same."""
    async with TeacherServer(answer_for) as server, maker_in(tmp_path, server) as (maker, row):
        server.fault_of = lambda body: Fault(refusal="bio") if "output_config" not in body else None
        found, fallback = await maker.make(row)
    assert sizes(found) == dict.fromkeys(CATEGORIES, ROWS)
    assert "creative: 12 tasks gave 0 usable rows" in fallback
    assert "creative: 12 tasks gave 0 usable rows" in card_of(tmp_path)


@pytest.mark.timeout(300)  # a quarter of a minute on two idle cores
async def test_a_cycle_killed_at_random_pays_once_and_its_statistics_equal_the_ledger(
    tmp_path: Path,
) -> None:
    """A real process and a real SIGKILL, five times; with every filter, the judge and a benchmark."""
    rng = random.Random(5)
    files = DataLayout(tmp_path)
    files.evaluation_sets.mkdir(parents=True)
    NgramIndex.of("kites", [WHOLE]).save(files.evaluation_sets / "kites.ngrams")

    def answer(body: dict[str, Any]) -> str:
        text = answer_for(body)
        is_quoting = "output_config" not in body and number_of(text) % 7 == 0
        return f"{text} {WHOLE}" if is_quoting else text

    async with TeacherServer(answer) as server:
        teacher = teacher_settings(server, judge_share=0.1, cap_usd_per_cycle=5.0)
        settings = cycle_settings(teacher, examples_per_category=MANY)
        server.delay_s = 0.002
        for kill in range(KILLS + 1):
            child = fork_server().Process(target=make, args=(tmp_path, settings.model_dump()))
            child.start()
            moment = len(server.bodies) + rng.randint(10, 40)
            while child.is_alive() and (kill == KILLS or len(server.bodies) < moment):
                await asyncio.sleep(0.01)
            if kill < KILLS:
                assert child.is_alive(), "it was to be killed in the middle"
                assert child.pid is not None
                os.kill(child.pid, signal.SIGKILL)
            child.join()
            assert child.exitcode == (-signal.SIGKILL if kill < KILLS else 0)
        assert set(server.asked.values()) == {1}, "a question was asked twice"
    write_settings(tmp_path, settings)
    arguments = ["stats", "--json", "--data-dir", str(tmp_path)]
    facts = json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).stdout)
    ledger = await totals(tmp_path)
    spent = sum(cost for _, cost in ledger.values())
    assert facts["cost_microusd"] == spent <= 5_000_000
    assert f"{spent / 1e6:.2f} US dollars" in card_of(tmp_path)
    assert ledger[RequestState.DONE][0] <= len(server.asked) <= sum(n for n, _ in ledger.values())
    rows = all_rows(tmp_path)
    assert Counter(one.category for one in rows) == dict.fromkeys(CATEGORIES, MANY)
    assert {one.permission_ref for one in rows} == {PERMISSION}
    for name, counts in facts["categories"].items():
        assert counts["train"] + counts["held_out"] == MANY, name
    assert facts["rejected"]["contaminated:kites"] >= 1
    assert not any(WHOLE in turn.content for one in rows for turn in one.messages)
