"""The pages as they come from the server: whole without a script, and what people wrote stays text."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from sqlalchemy import update

from api_samples import FakeViews, empty_views, played_views
from ares_coordinator.api.app import ApiSettings
from ares_coordinator.api.present import present_status
from ares_coordinator.store import tables
from ares_coordinator.web import pages as web_pages
from ares_coordinator.web.charts import bar_chart, line_chart, nice_ticks
from ares_coordinator.web.site import create_site
from ares_coordinator.web.wording import duration, moment, short_id, size
from ares_p2p.errors import UnknownPath
from store_samples import NOW, peer

PAGES = ("/", "/evolution", "/leaderboard", "/leaderboard?by=recent", "/credits-explained")
HTML = {"Accept": "text/html"}
HOSTILE = '<img src=x onerror="alert(1)">{{ 7*7 }}\'"'
STATIC = Path(web_pages.__file__).parent / "static"


class Outline(HTMLParser):
    """What a page is made of."""

    VOID = ("meta", "link", "input", "img", "br", "hr", "line", "circle", "rect", "polyline")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += f" {data.strip()}" if data.strip() else ""


def outline_of(text: str) -> Outline:
    found = Outline()
    found.feed(text)
    assert not found.open
    return found


@dataclass(slots=True)
class Rig:
    client: TestClient[Any, Any]
    views: FakeViews

    async def page(self, path: str, status: int = 200) -> Outline:
        response = await self.client.get(path, headers=HTML)
        assert response.status == status
        assert response.content_type == "text/html"
        return outline_of(await response.text())


async def opened(views: FakeViews, **settings: Any) -> TestClient[Any, Any]:
    client = TestClient(
        TestServer(create_site(views=views, settings=ApiSettings(limited=False, **settings)))
    )
    await client.start_server()
    return client


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    views = await played_views(tmp_path)
    client = await opened(views)
    yield Rig(client, views)
    await client.close()
    await views.db.close()


@pytest.fixture
async def empty(tmp_path: Path) -> AsyncIterator[Rig]:
    views = await empty_views(tmp_path)
    client = await opened(views)
    yield Rig(client, views)
    await client.close()
    await views.db.close()


@pytest.mark.parametrize("path", [*PAGES, f"/u/{peer(1)}"])
async def test_a_page_is_whole_and_loads_nothing_from_elsewhere(rig: Rig, path: str) -> None:
    response = await rig.client.get(path, headers=HTML)
    policy = response.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    page = outline_of(await response.text())
    for tag, attributes in page.tags:
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            address = attributes.get(name)
            assert address is None or (address.startswith(("/", "#")) and address[1:2] != "/")
        if tag == "script":
            assert attributes.get("src")
        if address := attributes.get("href" if tag == "link" else "src"):
            assert (await rig.client.get(address)).status == 200
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    live = [attributes for _, attributes in page.tags if "data-live" in attributes]
    assert all(attributes.get("id") for attributes in live)
    assert [tag for tag, _ in page.tags].count("h1") == 1
    targets = {a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a}
    assert targets <= set(ids)


async def test_what_the_pages_say_is_what_the_api_says(rig: Rig) -> None:
    status = await (await rig.client.get("/api/ares/status")).json()
    words = (await rig.page("/evolution")).words
    training, swarm = status["training"], status["training"]["swarm"]
    assert f"Round {training['rounds_done']} of {training['rounds_total']}" in words
    assert f"{swarm['onlineWorkers']} online of {swarm['totalWorkers']}" in words
    assert f"{status['data']['totalExamples']} examples" in words
    assert status["model"]["effective_params_human"] in words
    for one in training["rounds"]:
        for refusal in one["refusals"]:
            assert refusal["message"] in words
            assert refusal["code"] in words
    board = await (await rig.client.get("/api/ares/leaderboard")).json()
    for row in board:
        assert row["workerId"][-8:] in (await rig.page("/leaderboard")).words


async def test_a_volunteers_page_says_what_became_of_each_contribution(rig: Rig) -> None:
    worker = peer(1)
    facts = await (await rig.client.get(f"/api/ares/credits?workerId={worker}")).json()
    words = (await rig.page(f"/u/{worker}")).words
    assert worker in words
    assert facts["tier"] in words
    assert f"{facts['settledCredits']:,.2f}" in words
    assert [row["outcome"] for row in facts["recent"]] == ["waiting", "settled"]
    for row in facts["recent"]:
        assert row["outcome"] in words


async def test_a_hostile_name_stays_text(rig: Rig) -> None:
    def rename(store: Any) -> None:
        with store._write() as connection:
            connection.execute(
                update(tables.workers)
                .where(tables.workers.c.peer == peer(1))
                .values(display_name=HOSTILE)
            )

    await rig.views.db.call(rename, rig.views.db.store)
    event = json.dumps({"name": HOSTILE})
    await rig.views.db.call(rig.views.db.store.add_event, "odd", event, now_ms=NOW)
    for path in ("/evolution", "/leaderboard", f"/u/{peer(1)}"):
        page = await rig.page(path)
        assert HOSTILE in page.words
        assert "img" not in {tag for tag, _ in page.tags}


@pytest.mark.parametrize("path", PAGES)
async def test_a_network_in_which_nothing_happened_has_pages(empty: Rig, path: str) -> None:
    assert (await empty.page(path)).words
    if path == "/evolution":
        assert "No cycle has begun yet." in (await empty.page(path)).words


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/u/nobody", 404),
        ("/u/%3Cscript%3E", 404),
        ("/nothing", 404),
        ("/leaderboard?page=0", 400),
        ("/leaderboard?page=x", 400),
        ("/leaderboard?by=name", 400),
    ],
)
async def test_what_does_not_work_is_a_page_too(rig: Rig, path: str, status: int) -> None:
    page = await rig.page(path, status)
    assert re.search(r"ARES-E\d{3}", page.words)
    assert [a.get("src") for tag, a in page.tags if tag == "script"] == ["/static/live.js"]


async def test_scripts_get_json_where_browsers_get_a_page(rig: Rig) -> None:
    response = await rig.client.get("/nothing")
    assert response.status == 404
    assert (await response.json())["error"]["code"] == UnknownPath.code


async def test_a_fault_of_ours_says_nothing_of_what_is_inside(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret of the inside")

    monkeypatch.setattr(web_pages, "present_status", crash)
    page = await rig.page("/", 500)
    assert "secret" not in page.words


async def test_the_operators_controls_are_there_only_where_they_work(rig: Rig) -> None:
    assert "controls-form" not in {a.get("id") for _, a in (await rig.page("/evolution")).tags}
    client = await opened(rig.views, controls=object(), operator_token="secret-token")
    text = await (await client.get("/evolution", headers=HTML)).text()
    await client.close()
    found = outline_of(text)
    actions = [a["data-action"] for _, a in found.tags if "data-action" in a]
    assert actions == ["start", "pause", "resume", "stop", "schedule"]
    assert all(a.get("data-ask") for _, a in found.tags if "data-action" in a)
    assert "secret-token" not in text


async def test_many_who_ask_at_once_cost_one_rendering(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = 0

    def counted(*args: Any, **named: Any) -> Any:
        nonlocal rendered
        rendered += 1
        return present_status(*args, **named)

    monkeypatch.setattr(web_pages, "present_status", counted)
    monkeypatch.setattr(web_pages, "FRESH_S", 3600.0)
    answers = await asyncio.gather(*(rig.client.get("/", headers=HTML) for _ in range(20)))
    assert {answer.status for answer in answers} == {200}
    assert rendered == 1
    again = await rig.client.get("/", headers={**HTML, "If-None-Match": answers[0].headers["ETag"]})
    assert again.status == 304
    monkeypatch.setattr(web_pages, "FRESH_S", -1.0)
    await rig.client.get("/", headers=HTML)
    assert rendered == 2


async def test_a_page_that_failed_is_tried_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_pages, "FRESH_S", 3600.0)
    monkeypatch.setattr(web_pages, "present_status", lambda *_, **__: 1 / 0)
    assert (await rig.client.get("/", headers=HTML)).status == 500
    monkeypatch.setattr(web_pages, "present_status", present_status)
    assert (await rig.client.get("/", headers=HTML)).status == 200


def test_vendored_files_are_what_their_list_says() -> None:
    listed = json.loads((STATIC / "vendor" / "vendor.json").read_text(encoding="utf-8"))
    licences = {one["licence_file"] for one in listed.values()}
    there = {path.name for path in (STATIC / "vendor").iterdir()}
    assert there == {*listed, *licences, "vendor.json"}
    for name, one in listed.items():
        content = (STATIC / "vendor" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == one["sha256"]
        assert one["version"] in name
        assert not re.findall(rb"url\((?!\"?data:)", content)  # loads nothing from elsewhere


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (2.2, 2.5), (3.0, 3.0), (0.0, 0.0), (-5.0, 700.0), (1e-9, 3e-9)]
)
def test_ticks_span_the_numbers(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 9
    assert ticks == sorted(set(ticks))


def test_a_line_chart_stays_inside_and_leaves_out_what_is_missing() -> None:
    chart = line_chart([("a", [(1, 2.0), (2, None), (3, float("nan")), (9, 4.0)]), ("b", [])])
    assert chart is not None
    first, second = chart.lines
    assert len(first.dots) == 2
    assert second.dots == ()
    assert all(0 <= x <= chart.width and 0 <= y <= chart.height for x, y in first.dots)
    assert first.dots[0][1] > first.dots[1][1]  # more is higher up
    assert line_chart([("a", [(1, None)])]) is None
    assert line_chart([]) is None


def test_bars_grow_with_their_values() -> None:
    chart = bar_chart([("a", 1.0, "1"), ("b", 2.0, "2"), ("c", 0.0, "0")])
    assert chart is not None
    heights = [bar.height for bar in chart.bars]
    assert heights[1] == pytest.approx(2 * heights[0], abs=0.2)
    assert heights[2] == 0
    assert bar_chart([]) is None


@pytest.mark.parametrize(
    ("ms", "said"),
    [
        (0, "0 s"),
        (8_900, "8 s"),
        (60_000, "1 min"),
        (3_600_000, "1 h"),
        (5_400_000, "1 h 30 min"),
        (93_600_000, "1 d 2 h"),
        (-5, "0 s"),
    ],
)
def test_durations_are_said_in_two_units(ms: int, said: str) -> None:
    assert duration(ms) == said


def test_times_sizes_and_ids_as_they_are_said() -> None:
    assert moment(None) == "never"
    assert moment(0) == "1970-01-01 00:00 UTC"
    assert (size(999), size(1_500), size(2 * 10**9)) == ("999 B", "1.5 kB", "2.0 GB")
    assert short_id(peer(1)) == f"…{peer(1)[-8:]}"
    assert short_id("short") == "short"
