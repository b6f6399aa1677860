"""What holds for every route: one error shape, ETag, CORS, headers, mounting."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from api_samples import FakeViews, played_views
from ares_coordinator.api.app import create_app, create_root_app
from ares_coordinator.api.errors import status_of
from ares_coordinator.api.present import human_count
from ares_coordinator.api.routes import PublicRoutes
from ares_p2p.errors import (
    AresError,
    BadParameter,
    BadSignature,
    ConfigFault,
    CoordinatorAway,
    DiskFull,
    RateLimited,
    StoreFault,
    UnknownWorker,
)
from store_samples import peer


@pytest.fixture
async def views(tmp_path: Path) -> AsyncIterator[FakeViews]:
    made = await played_views(tmp_path)
    yield made
    await made.db.close()


@pytest.fixture
async def client(views: FakeViews) -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(TestServer(create_root_app(views=views))) as made:
        yield made


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/ares/leaderboard?limit=0", 400, BadParameter.code),
        ("/api/ares/leaderboard?limit=101", 400, BadParameter.code),
        ("/api/ares/leaderboard?limit=-1", 400, BadParameter.code),
        ("/api/ares/leaderboard?limit=ten", 400, BadParameter.code),
        ("/api/ares/leaderboard?limit=", 400, BadParameter.code),
        ("/api/ares/leaderboard?limit=1.0", 400, BadParameter.code),
        ("/api/ares/leaderboard?limit=%C2%B2", 400, BadParameter.code),
        ("/api/ares/leaderboard?limit=" + "9" * 5000, 400, BadParameter.code),
        ("/api/ares/credits?workerId=", 400, BadParameter.code),
        ("/api/ares/credits?workerId=%3Cscript%3E", 400, BadParameter.code),
        ("/api/ares/credits?workerId=" + "A" * 129, 400, BadParameter.code),
        (f"/api/ares/credits?workerId={peer(77)}", 404, UnknownWorker.code),
        ("/api/ares/nothing", 404, "ARES-E082"),
        ("/nothing", 404, "ARES-E082"),
    ],
)
async def test_faults_have_one_shape(
    client: TestClient[Any, Any], path: str, status: int, code: str
) -> None:
    async with client.get(path) as response:
        assert response.status == status
        assert response.content_type == "application/json"
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert response.headers["Cache-Control"] == "no-store"
        body = await response.json()
    assert list(body) == ["error"]
    assert sorted(body["error"]) == ["code", "hint", "message"]
    assert body["error"]["code"] == code
    assert body["error"]["message"]
    assert len(body["error"]["message"]) < 200


@pytest.mark.parametrize("path", ["/api/ares/status", "/healthz"])
async def test_other_methods_are_refused_and_may_not_cross_origins(
    client: TestClient[Any, Any], path: str
) -> None:
    async with client.post(path, json={}) as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET, HEAD"
        assert "Access-Control-Allow-Origin" not in response.headers
        assert "error" in await response.json()


@pytest.mark.parametrize("path", ["/api/ares/data", "/api/ares/leaderboard", "/version"])
async def test_etag_saves_the_body(client: TestClient[Any, Any], path: str) -> None:
    async with client.get(path) as response:
        tag = response.headers["ETag"]
        assert response.headers["Cache-Control"] == "no-cache"
    for known in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        async with client.get(path, headers={"If-None-Match": known}) as response:
            assert response.status == 304
            assert response.headers["ETag"] == tag
            assert await response.read() == b""
    async with client.get(path, headers={"If-None-Match": '"other"'}) as response:
        assert response.status == 200


async def test_etag_changes_with_the_content(
    client: TestClient[Any, Any], views: FakeViews
) -> None:
    async with client.get("/api/ares/training") as response:
        tag = response.headers["ETag"]
    store = views.db.store
    await views.db.call(store.close_round, 1, 1, now_ms=5)
    async with client.get("/api/ares/training", headers={"If-None-Match": tag}) as response:
        assert response.status == 200


async def test_headers_are_safe_and_reads_are_public(client: TestClient[Any, Any]) -> None:
    for method in ("GET", "HEAD"):
        async with client.request(method, "/api/ares/data") as response:
            assert response.status == 200
            assert response.headers["Access-Control-Allow-Origin"] == "*"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert "default-src 'none'" in response.headers["Content-Security-Policy"]
            assert "Access-Control-Allow-Credentials" not in response.headers


async def test_store_fault_is_answered_without_its_text(
    client: TestClient[Any, Any], views: FakeViews
) -> None:
    await views.db.call(_break, views.db.store)
    async with client.get("/api/ares/data") as response:
        assert response.status == 500
        error = (await response.json())["error"]
    assert error["code"] == StoreFault.code
    assert "datasets" not in error["message"]


def _break(store: Any) -> None:
    with store._write() as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        connection.exec_driver_sql("ALTER TABLE datasets RENAME TO gone")


async def test_crash_is_answered_in_shape(
    client: TestClient[Any, Any], views: FakeViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot(_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(FakeViews, "snapshot", snapshot)
    async with client.get("/api/ares/training") as response:
        assert response.status == 500
        assert "secret detail" not in await response.text()


async def test_api_is_mounted_under_any_path_of_a_host(views: FakeViews) -> None:
    host = web.Application()
    host.add_subapp("/plugins/ares", create_app(views=views))
    async with TestClient(TestServer(host)) as client:
        async with client.get("/plugins/ares/leaderboard") as response:
            assert response.status == 200
            assert isinstance(await response.json(), list)
        async with client.get("/plugins/ares/nothing") as response:
            assert response.status == 404
            assert "error" in await response.json()


def test_paths_are_relative_and_reads() -> None:
    routes = PublicRoutes(None, (), "").routes()  # type: ignore[arg-type]
    assert {route.path for route in routes} == {
        *("/status", "/model", "/training", "/data", "/credits", "/leaderboard", "/network")
    }
    assert {route.method for route in routes} == {"GET"}


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (BadSignature("x"), 401),
        (RateLimited("x"), 429),
        (CoordinatorAway("x"), 503),
        (DiskFull("x"), 507),
        (ConfigFault("x"), 500),
        (StoreFault("x"), 500),
    ],
)
def test_status_says_whose_fault_it_is(fault: AresError, status: int) -> None:
    assert status_of(fault) == status


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "unknown"),
        (0, "0"),
        (999, "999"),
        (12_345, "12.3K"),
        (71_200_000_000, "71.2B"),
        (10**12, "1.0T"),
    ],
)
def test_human_count(number: int | None, text: str) -> None:
    assert human_count(number) == text
