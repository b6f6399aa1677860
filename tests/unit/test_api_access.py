"""Signed requests, limits by tier, and adapters before their public release."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer

from api_samples import played_views
from ares_coordinator.api.app import ApiSettings, create_root_app
from ares_coordinator.layout import DataLayout
from ares_coordinator.ledger.tiers import BENEFITS, Tier
from ares_p2p.crypto.requests import sign_request
from ares_p2p.errors import BadSignature, NotYetReleased, RateLimited, UnknownPath
from netfixtures import HandClock
from payloads import identity
from store_samples import NOW, peer, promote

TRAINER, FREE = 1, 4  # peer 1 of `played_views` has 600 credits and audited GPU work
HOUR_S = 3600.0
WEIGHTS = bytes(range(256)) * 4


@pytest.fixture
def clock() -> HandClock:
    return HandClock(NOW)


@pytest.fixture
async def client(tmp_path: Path, clock: HandClock) -> AsyncIterator[TestClient[Any, Any]]:
    views = await played_views(tmp_path)
    await views.db.call(promote, views.db.store)
    files = DataLayout(tmp_path)
    files.adapter(1).mkdir(parents=True)
    (files.adapter(1) / "adapter_model.safetensors").write_bytes(WEIGHTS)
    (files.adapter(1) / "adapter_config.json").write_text("{}")
    (files.adapter(1) / ".secret").write_text("not a document of the adapter")
    settings = ApiSettings(network_id="net-1", files=files, public_release_h=72)
    async with TestClient(
        TestServer(create_root_app(views=views, settings=settings, clock=clock))
    ) as made:
        yield made
    await views.db.close()


def as_worker(number: int, path: str, clock: HandClock) -> dict[str, str]:
    header = sign_request(
        identity(number), network_id="net-1", method="GET", path=path, now_ms=clock.now_ms()
    )
    return {"Authorization": header}


async def code_of(response: ClientResponse) -> str:
    body = await response.json()
    return str(body["error"]["code"])


WEIGHTS_PATH = "/api/ares/adapters/1/adapter_model.safetensors"


async def test_a_new_adapter_is_held_back_from_everybody_but_shown(
    client: TestClient[Any, Any],
) -> None:
    async with client.get("/api/ares/adapters") as response:
        (adapter,) = await response.json()
    assert adapter["version"] == "ares-v1"
    assert adapter["available_to_you"] is False
    assert adapter["public_ms"] == NOW + 72 * 3_600_000
    assert [file["name"] for file in adapter["files"]] == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    async with client.get(WEIGHTS_PATH) as response:
        assert response.status == 403
        assert await code_of(response) == NotYetReleased.code


async def test_a_trainer_waits_a_twelfth_of_the_time(
    client: TestClient[Any, Any], clock: HandClock
) -> None:
    clock.pass_s(72 / 12 * HOUR_S - 1)
    async with client.get(WEIGHTS_PATH, headers=as_worker(TRAINER, WEIGHTS_PATH, clock)) as early:
        assert early.status == 403
        assert "TRAINER" in (await early.json())["error"]["message"]
    clock.pass_s(1)
    async with client.get(WEIGHTS_PATH, headers=as_worker(TRAINER, WEIGHTS_PATH, clock)) as there:
        assert there.status == 200
        assert await there.read() == WEIGHTS
    async with client.get(WEIGHTS_PATH, headers=as_worker(FREE, WEIGHTS_PATH, clock)) as other:
        assert other.status == 403


async def test_everybody_has_it_after_the_public_release_and_in_ranges(
    client: TestClient[Any, Any], clock: HandClock
) -> None:
    clock.pass_s(72 * HOUR_S)
    async with client.get(WEIGHTS_PATH, headers={"Range": "bytes=1000-"}) as response:
        assert response.status == 206
        assert await response.read() == WEIGHTS[1000:]


@pytest.mark.parametrize(
    "name", [".secret", "nothing.json", "..%2F..%2Fares.db", "..%2F..%2Fidentity.key"]
)
async def test_only_the_adapters_own_files_are_served(
    client: TestClient[Any, Any], clock: HandClock, name: str
) -> None:
    clock.pass_s(72 * HOUR_S)
    async with client.get(f"/api/ares/adapters/1/{name}") as response:
        assert response.status == 404
        assert await code_of(response) == UnknownPath.code


async def test_a_wrong_signature_is_an_error_and_never_nobody(
    client: TestClient[Any, Any], clock: HandClock
) -> None:
    headers = as_worker(TRAINER, "/api/ares/other", clock)
    async with client.get("/api/ares/status", headers=headers) as response:
        assert response.status == 401
        assert await code_of(response) == BadSignature.code
    old = as_worker(TRAINER, "/api/ares/status", clock)
    clock.pass_s(61)
    async with client.get("/api/ares/status", headers=old) as response:
        assert response.status == 401


async def test_requests_beyond_the_limit_wait_and_a_tier_has_its_own(
    client: TestClient[Any, Any], clock: HandClock
) -> None:
    path = "/api/ares/nothing"  # the cheapest answer counts like any other
    for _ in range(BENEFITS[Tier.FREE].requests_per_minute):
        async with client.get(path) as response:
            assert response.status == 404
    async with client.get(path) as response:
        assert response.status == 429
        assert await code_of(response) == RateLimited.code
        assert 1 <= int(response.headers["Retry-After"]) <= 60
    async with client.get(path, headers=as_worker(TRAINER, path, clock)) as response:
        assert response.status == 404
    async with client.get("/healthz") as response:  # whoever watches the server is never limited
        assert response.status == 200


def test_the_sample_workers_are_who_they_say() -> None:
    assert peer(TRAINER) == identity(TRAINER).peer_id
