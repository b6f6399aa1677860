"""The operator's controls over HTTP and on the command line; nobody else's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from typer.testing import CliRunner

from api_samples import played_views
from ares_coordinator.api.app import ApiSettings, create_root_app
from ares_coordinator.cli import app as commands
from ares_coordinator.engine.schedule import Missed, Schedule, parse_schedule
from ares_coordinator.operatorkey import FILE, find_operator_key, keep_operator_key
from ares_coordinator.store.rows import CycleRow
from ares_p2p.errors import (
    CoordinatorAway,
    OperatorRefused,
    PayloadMalformed,
    ScheduleRefused,
    WrongMoment,
)
from store_samples import NOW

API = "/api/ares"
POSTS = ("training/start", "training/pause", "training/resume", "schedule")


@dataclass(slots=True)
class PlayedControls:
    """Notes what was asked of it."""

    row: CycleRow
    asked: list[str] = field(default_factory=list)
    schedule: Schedule | None = None
    next_ms: int | None = None
    is_running: bool = False

    async def start(self) -> CycleRow:
        if self.is_running:
            raise WrongMoment("a cycle is running")
        self.asked.append("start")
        return self.row

    async def pause(self) -> None:
        self.asked.append("pause")

    async def resume(self) -> None:
        self.asked.append("resume")

    async def set_schedule(self, value: str | float | None) -> Schedule | None:
        self.schedule = parse_schedule(value, timezone="UTC", missed=Missed.ONCE, now_ms=NOW)
        self.next_ms = None if self.schedule is None else self.schedule.next_after(NOW)
        self.asked.append(f"schedule {value}")
        return self.schedule


@dataclass(slots=True)
class Rig:
    client: TestClient[Any, Any]
    controls: PlayedControls
    token: str
    folder: Path

    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    async def command(self, *words: str) -> Any:
        """Run a command against the server, in a thread: it blocks."""
        arguments = [*words, "--data-dir", str(self.folder)]
        return await asyncio.to_thread(CliRunner().invoke, commands, arguments)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    views = await played_views(tmp_path)
    row = await views.db.call(views.db.store.cycle, 1)
    assert row is not None
    controls = PlayedControls(row)
    key = keep_operator_key(tmp_path)
    settings = ApiSettings(network_id="net-1", controls=controls, operator_token=key.token)
    async with TestClient(TestServer(create_root_app(views=views, settings=settings))) as client:
        keep_operator_key(tmp_path, api=str(client.make_url("")).rstrip("/"))
        yield Rig(client, controls, key.token, tmp_path)
    await views.db.close()


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer é"},
        {"Authorization": "Basic {token}"},
        {"Authorization": "{token}"},
        {"X-Aries-Key": "wrong"},
        {"X-Aries-Key": "{token}x"},
        {"Cookie": "token={token}"},
    ],
)
async def test_without_the_token_nothing_changes(
    rig: Rig, path: str, headers: dict[str, str]
) -> None:
    sent = {name: value.replace("{token}", rig.token) for name, value in headers.items()}
    response = await rig.client.post(f"{API}/{path}", headers=sent, json={"schedule": "daily"})
    assert response.status == 401
    assert (await response.json())["error"]["code"] == OperatorRefused.code
    assert rig.token not in await response.text()
    assert rig.controls.asked == []
    assert rig.controls.schedule is None


async def test_the_token_is_not_taken_from_the_address(rig: Rig) -> None:
    response = await rig.client.post(f"{API}/training/start?token={rig.token}&key={rig.token}")
    assert response.status == 401
    assert rig.controls.asked == []


async def test_both_headers_open(rig: Rig) -> None:
    for headers in (rig.bearer(), {"X-Aries-Key": rig.token}):
        response = await rig.client.post(f"{API}/training/start", headers=headers)
        assert response.status == 200
        assert await response.json() == {"cycle": 1, "phase": rig.controls.row.phase.value}
    for path, paused in (("pause", True), ("resume", False)):
        response = await rig.client.post(f"{API}/training/{path}", headers=rig.bearer())
        assert await response.json() == {"paused": paused}
    assert rig.controls.asked == ["start", "start", "pause", "resume"]


async def test_a_cycle_that_runs_is_not_started_again(rig: Rig) -> None:
    rig.controls.is_running = True
    response = await rig.client.post(f"{API}/training/start", headers=rig.bearer())
    assert response.status == 409
    assert (await response.json())["error"]["code"] == WrongMoment.code


async def test_the_schedule_is_public_to_read_and_the_operators_to_set(rig: Rig) -> None:
    nothing = {"schedule": None, "timezone": None, "missed": None, "next_ms": None}
    assert await (await rig.client.get(f"{API}/schedule")).json() == nothing
    for value in ("daily", 6, "0 3 * * 1"):
        response = await rig.client.post(
            f"{API}/schedule", headers=rig.bearer(), json={"schedule": value}
        )
        said = await response.json()
        assert response.status == 200
        assert said == await (await rig.client.get(f"{API}/schedule")).json()
        assert said["next_ms"] > NOW
    response = await rig.client.post(
        f"{API}/schedule", headers=rig.bearer(), json={"schedule": None}
    )
    assert await response.json() == nothing


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ('{"schedule": "now and then"}', ScheduleRefused.code),
        ('{"schedule": -1}', ScheduleRefused.code),
        ('{"schedule": ["daily"]}', PayloadMalformed.code),
        ('{"schedul": "daily"}', PayloadMalformed.code),
        ("{", PayloadMalformed.code),
        ("", PayloadMalformed.code),
        ("[" * 20_000, PayloadMalformed.code),
        ('{"schedule": 1' + "0" * 400 + "}", ScheduleRefused.code),
    ],
)
async def test_a_wrong_schedule_is_refused_and_says_how(rig: Rig, body: str, code: str) -> None:
    await rig.controls.set_schedule("6h")
    response = await rig.client.post(f"{API}/schedule", headers=rig.bearer(), data=body)
    error = (await response.json())["error"]
    assert (response.status, error["code"]) == (400, code)
    assert "daily" in error["hint"]
    assert rig.controls.schedule is not None
    assert rig.controls.schedule.text == "6h"


async def test_a_huge_body_is_refused(rig: Rig) -> None:
    response = await rig.client.post(
        f"{API}/schedule", headers=rig.bearer(), data=b"x" * (70 * 1024)
    )
    assert response.status == 413


# --- the command line --------------------------------------------------------------------------


async def test_the_commands_ask_the_running_coordinator(rig: Rig) -> None:
    assert "Cycle 1 runs" in (await rig.command("start")).output
    assert "resume" in (await rig.command("pause")).output
    assert json.loads((await rig.command("resume", "--json")).output) == {"paused": False}
    assert "No cycle begins" in (await rig.command("schedule")).output
    assert "next cycle begins" in (await rig.command("schedule", "weekly")).output
    assert "'weekly'" in (await rig.command("schedule")).output
    assert "No cycle begins" in (await rig.command("schedule", "off")).output
    assert rig.controls.asked == ["start", "pause", "resume", "schedule weekly", "schedule off"]


async def test_a_refusal_keeps_its_code_and_hint(rig: Rig) -> None:
    refused = (await rig.command("schedule", "now and then")).exception
    assert isinstance(refused, ScheduleRefused)
    assert "daily" in refused.hint


async def test_nobody_runs(rig: Rig, tmp_path: Path) -> None:
    away = (await Rig(rig.client, rig.controls, "", tmp_path / "empty").command("pause")).exception
    assert isinstance(away, CoordinatorAway)
    keep_operator_key(tmp_path, api="http://127.0.0.1:9")  # the discard port: nobody listens
    away = (await rig.command("pause")).exception
    assert isinstance(away, CoordinatorAway)
    assert "ares-coordinator run" in away.hint


# --- the file ----------------------------------------------------------------------------------


def test_the_token_is_kept_and_private(tmp_path: Path) -> None:
    first = keep_operator_key(tmp_path)
    second = keep_operator_key(tmp_path, api="http://127.0.0.1:1")
    assert first.token == second.token
    assert find_operator_key(tmp_path) == second
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    assert first.token not in repr(ApiSettings(operator_token=first.token))


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"token": "", "api": ""}', "\0"])
def test_a_broken_file_is_made_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    assert find_operator_key(tmp_path) is None
    assert len(keep_operator_key(tmp_path).token) >= 32
