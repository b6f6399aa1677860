"""The teacher's trouble is seen: in the status, on the command line, also after a restart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp.test_utils import TestClient, TestServer
from typer.testing import CliRunner

from api_samples import FakeViews
from ares_coordinator.api.app import create_root_app
from ares_coordinator.commands.data import app
from ares_coordinator.distiller.apikey import VARIABLE
from ares_coordinator.engine.runner import RETRY_S, Engine
from ares_coordinator.layout import DataLayout
from ares_coordinator.settings import TeacherSection, write_settings
from ares_coordinator.store.rows import CyclePhase, CycleRow
from ares_coordinator.store.thread import StoreThread
from ares_coordinator.teacherstate import Condition, load_teacher_state
from ares_p2p.errors import TeacherKeyRefused, TeacherUnpaid
from dataset_maker import cycle_settings, open_maker
from teacher_answers import answer_for
from teacher_clock import JumpClock
from teacher_desk import teacher_settings
from teacher_server import BAD_KEY, KEY, UNPAID, TeacherServer


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, KEY)
    monkeypatch.delenv("ARES_DATABASE_URL", raising=False)


class LookingClock(JumpClock):
    """Looks around at every sleep: that is when the engine waits."""

    def __init__(self, look: Callable[[float], Any]) -> None:
        super().__init__()
        self._look = look

    async def sleep(self, seconds: float) -> None:
        if seconds in RETRY_S:
            await self._look(seconds)
        await super().sleep(seconds)


async def generate(folder: Path, teacher: TeacherSection, clock: JumpClock) -> CycleRow | None:
    """Run the first phase of a cycle in the real engine, until it is over."""
    settings = cycle_settings(teacher)
    async with open_maker(folder, settings, clock=clock) as (maker, row):
        nobody = cast(Any, None)  # making rows needs no network
        engine = Engine(settings, DataLayout(folder), maker.db, nobody, nobody, nobody, clock, nobody)  # fmt: skip
        await engine._phase_with_retries(row)
        return await maker.db.call(maker.db.store.cycle, 1)


async def read(folder: Path, path: str) -> Any:
    """Read from the real API over what is stored, as a coordinator does that just started."""
    db = await StoreThread.open(folder / "ares.db", read_only=True)
    try:
        async with TestClient(TestServer(create_root_app(views=FakeViews(db)))) as client:
            return await (await client.get(f"/api/ares/{path}")).json()
    finally:
        await db.close()


async def test_while_the_engine_waits_the_status_names_code_message_and_next_try(
    tmp_path: Path,
) -> None:
    seen: list[Any] = []

    async def look(pause_s: float) -> None:
        status = await read(tmp_path, "status")
        seen.append((pause_s, status["data"]["teacher"], status["at_ms"]))
        if len(seen) == 2:
            server.fault_of = lambda _: BAD_KEY
        if len(seen) == 3:
            server.fault_of = lambda _: None

    async with TeacherServer(answer_for) as server:
        server.fault_of = lambda _: UNPAID
        clock = LookingClock(look)
        row = await generate(tmp_path, teacher_settings(server), clock)
    assert row is not None
    assert row.phase is CyclePhase.PREPARE
    first, second, third = (state for _, state, _ in seen)
    assert (first["state"], first["code"], first["tries"]) == ("waiting", TeacherUnpaid.code, 1)
    assert "no credit" in first["message"]
    assert first["hint"] == TeacherUnpaid.default_hint
    assert first["teacher"] == "claude-opus-5-5"
    assert first["nextTryMs"] == first["sinceMs"] + RETRY_S[0] * 1000
    assert (second["tries"], second["sinceMs"]) == (2, first["sinceMs"])
    assert second["nextTryMs"] > first["nextTryMs"]
    assert (third["state"], third["code"], third["tries"]) == ("waiting", TeacherKeyRefused.code, 3)
    assert third["sinceMs"] > second["sinceMs"]
    after = await read(tmp_path, "data")
    assert (after["teacher"]["state"], after["teacher"]["code"]) == ("ok", "")
    assert after["teacher"]["nextTryMs"] is None


async def test_killed_while_it_waits_the_next_start_still_says_why(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    async def die(_: float) -> None:
        raise Killed

    async with TeacherServer(answer_for) as server:
        server.fault_of = lambda _: UNPAID
        with pytest.raises(Killed):
            await generate(tmp_path, teacher_settings(server), LookingClock(die))
        teacher = (await read(tmp_path, "status"))["data"]["teacher"]
        assert (teacher["state"], teacher["code"]) == ("waiting", TeacherUnpaid.code)
        events = await read_events(tmp_path)
        server.fault_of = lambda _: None
        await generate(tmp_path, teacher_settings(server), JumpClock())
    assert (await read(tmp_path, "status"))["data"]["teacher"]["state"] == "ok"
    assert events == ["teacher-waiting"]
    assert await read_events(tmp_path) == ["teacher-waiting", "teacher-ok"]


async def read_events(folder: Path) -> list[str]:
    db = await StoreThread.open(folder / "ares.db", read_only=True)
    try:
        events = await db.call(db.store.events_after, 0)
    finally:
        await db.close()
    return [event.type for event in events if event.type.startswith("teacher")]


async def test_fallback_says_why_in_the_status(tmp_path: Path) -> None:
    async with TeacherServer(answer_for) as server:
        server.fault_of = lambda _: UNPAID
        teacher = teacher_settings(server, fallback="procedural")
        await generate(tmp_path, teacher, JumpClock())
    found = (await read(tmp_path, "status"))["data"]["teacher"]
    assert (found["state"], found["code"]) == ("fallback", TeacherUnpaid.code)
    assert "no credit" in found["message"]
    assert await read_events(tmp_path) == ["teacher-fallback"]


async def test_procedural_teacher_is_well_and_before_it_nothing_is_said(tmp_path: Path) -> None:
    (await StoreThread.open(tmp_path / "ares.db")).store.close()
    assert (await read(tmp_path, "data"))["teacher"] is None
    await generate(tmp_path, TeacherSection(), JumpClock())
    found = (await read(tmp_path, "data"))["teacher"]
    assert (found["state"], found["teacher"]) == ("ok", "procedural")
    assert await read_events(tmp_path) == []


async def test_command_line_names_the_state(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    async def stop(_: float) -> None:
        raise Stopped

    async with TeacherServer(answer_for) as server:
        server.fault_of = lambda _: UNPAID
        write_settings(tmp_path, cycle_settings(teacher_settings(server)))
        with pytest.raises(Stopped):
            await generate(tmp_path, teacher_settings(server), LookingClock(stop))
    arguments = ["teacher", "--data-dir", str(tmp_path)]
    text = CliRunner().invoke(app, arguments, catch_exceptions=False).stdout
    assert "claude-opus-5-5: waiting since" in text
    assert f"[{TeacherUnpaid.code}] the teacher's account has no credit" in text
    assert "asked in vain 1 times, again at" in text
    facts = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert facts["condition"] == Condition.WAITING
    db = await StoreThread.open(tmp_path / "ares.db", read_only=True)
    state = await db.call(load_teacher_state, db.store)
    await db.close()
    assert state is not None
    assert state.next_try_ms == facts["next_try_ms"]
