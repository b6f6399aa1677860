"""The peer's download of promoted adapters, against the real API on a loopback port."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from typer.testing import CliRunner

from api_samples import played_views
from ares_coordinator.api.app import ApiSettings, create_root_app
from ares_coordinator.layout import DataLayout
from ares_p2p.crypto.keys import save_identity
from ares_p2p.errors import (
    BlobUnavailable,
    ConfigFault,
    CoordinatorAway,
    HashMismatch,
    NotYetReleased,
    PayloadMalformed,
)
from ares_peer.adapters import AdapterShop, RemoteAdapter
from ares_peer.cli import app
from ares_peer.settings import claim_network, remember_api
from netfixtures import HandClock
from payloads import identity
from store_samples import NOW, promote

WEIGHTS = bytes(range(256)) * 5000  # more than one chunk
TRAINER = 1


@pytest.fixture
def clock() -> HandClock:
    return HandClock(NOW)


@pytest.fixture
async def server(tmp_path: Path, clock: HandClock) -> AsyncIterator[TestServer]:
    views = await played_views(tmp_path)
    await views.db.call(promote, views.db.store)
    files = DataLayout(tmp_path)
    files.adapter(1).mkdir(parents=True)
    (files.adapter(1) / "adapter_model.safetensors").write_bytes(WEIGHTS)
    (files.adapter(1) / "adapter_config.json").write_text("{}")
    settings = ApiSettings(network_id="net-1", files=files)
    async with TestServer(create_root_app(views=views, settings=settings, clock=clock)) as made:
        yield made
    await views.db.close()


def shop_of(server: TestServer, clock: HandClock, number: int = TRAINER) -> AdapterShop:
    return AdapterShop(str(server.make_url("/")), "net-1", identity(number), clock)


async def newest(shop: AdapterShop) -> RemoteAdapter:
    (adapter,) = await shop.index()
    return adapter


def silent(_name: str, _done: int, _total: int) -> None:
    """Progress that nobody looks at."""


async def test_fetch_brings_the_verified_folder_and_tells_how_far_it_is(
    server: TestServer, clock: HandClock, tmp_path: Path
) -> None:
    clock.pass_s(6 * 3600)  # a twelfth of the public release: a trainer may
    shop = shop_of(server, clock)
    adapter = await newest(shop)
    assert adapter.is_available
    seen: list[tuple[str, int, int]] = []
    folder = await shop.fetch(adapter, tmp_path / "got", progress=lambda *fact: seen.append(fact))
    assert (folder / "adapter_model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "adapter_config.json").read_text() == "{}"
    assert seen[-1] == ("adapter_model.safetensors", len(WEIGHTS), len(WEIGHTS))
    assert [path.name for path in (tmp_path / "got").iterdir()] == ["cycle-1"]


async def test_fetch_before_the_release_says_when_and_leaves_nothing_that_looks_done(
    server: TestServer, clock: HandClock, tmp_path: Path
) -> None:
    shop = shop_of(server, clock, number=4)
    adapter = await newest(shop)
    assert not adapter.is_available
    with pytest.raises(NotYetReleased, match=r"72\.0 hours"):
        await shop.fetch(adapter, tmp_path / "got", progress=silent)
    assert not (tmp_path / "got" / "cycle-1").exists()


async def test_fetch_goes_on_where_it_was_broken_off(
    server: TestServer, clock: HandClock, tmp_path: Path
) -> None:
    clock.pass_s(72 * 3600)
    shop = shop_of(server, clock)
    partial = tmp_path / "got" / ".cycle-1.part"
    partial.mkdir(parents=True)
    (partial / "adapter_model.safetensors").write_bytes(WEIGHTS[:700_000])
    seen: list[tuple[str, int, int]] = []
    folder = await shop.fetch(
        await newest(shop), tmp_path / "got", progress=lambda *fact: seen.append(fact)
    )
    assert (folder / "adapter_model.safetensors").read_bytes() == WEIGHTS
    assert min(done for name, done, _ in seen if name.endswith("safetensors")) > 700_000


async def test_damaged_bytes_are_not_kept(
    server: TestServer, clock: HandClock, tmp_path: Path
) -> None:
    clock.pass_s(72 * 3600)
    shop = shop_of(server, clock)
    partial = tmp_path / "got" / ".cycle-1.part"
    partial.mkdir(parents=True)
    (partial / "adapter_model.safetensors").write_bytes(b"x" * 700_000)
    with pytest.raises(HashMismatch, match="adapter_model"):
        await shop.fetch(await newest(shop), tmp_path / "got", progress=silent)
    folder = await shop.fetch(await newest(shop), tmp_path / "got", progress=silent)
    assert (folder / "adapter_model.safetensors").read_bytes() == WEIGHTS


async def test_a_folder_that_cannot_be_written_is_named(
    server: TestServer, clock: HandClock, tmp_path: Path
) -> None:
    clock.pass_s(72 * 3600)
    shop = shop_of(server, clock)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigFault, match="cannot write"):
        await shop.fetch(await newest(shop), tmp_path / "file", progress=silent)


async def test_nobody_there_is_the_coordinator_away(clock: HandClock) -> None:
    shop = AdapterShop("http://127.0.0.1:1", "net-1", identity(1), clock)
    with pytest.raises(CoordinatorAway, match="does not answer"):
        await shop.index()


@pytest.fixture
async def liar() -> AsyncIterator[Callable[[Any], TestServer]]:
    answer: list[Any] = []

    async def respond(_request: web.Request) -> web.Response:
        return web.json_response(answer[0])

    app = web.Application()
    app.router.add_get("/api/ares/adapters", respond)
    app.router.add_get("/api/ares/adapters/1/a.json", respond)
    async with TestServer(app) as made:

        def answering(content: Any) -> TestServer:
            answer[:] = [content]
            return made

        yield answering


def adapter_json(**changes: Any) -> dict[str, Any]:
    file = {"name": "a.json", "size_bytes": 100_000, "sha256": "0" * 64} | changes
    return {
        "cycle": 1,
        "version": "ares-v1",
        "public_ms": NOW,
        "available_to_you": True,
        "files": [file],
    }


@pytest.mark.parametrize(
    "content",
    [
        "no list",
        [{}],
        [adapter_json(name="../../outside")],
        [adapter_json(name=".hidden")],
        [adapter_json(size_bytes=-1)],
        [adapter_json(sha256="abc")],
        {"error": "x"},
    ],
)
async def test_an_index_that_is_not_one_is_refused(
    liar: Callable[[Any], TestServer], clock: HandClock, content: Any
) -> None:
    with pytest.raises(PayloadMalformed):
        await shop_of(liar(content), clock).index()


async def test_a_short_file_is_told_and_can_be_continued(
    liar: Callable[[Any], TestServer], clock: HandClock, tmp_path: Path
) -> None:
    shop = shop_of(liar([adapter_json()]), clock)
    with pytest.raises(BlobUnavailable, match="broke off"):
        await shop.fetch(await newest(shop), tmp_path / "got", progress=silent)


# --- the command -------------------------------------------------------------------------------


@pytest.fixture
def home(
    server: TestServer, clock: HandClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.setattr("ares_peer.adapters_cli.SystemClock", lambda: clock)
    folder = tmp_path / "peer"
    save_identity(identity(TRAINER), folder / "identity.key")
    claim_network(folder, "net-1")
    remember_api(folder, str(server.make_url("/")))
    return folder


async def ask(*arguments: str) -> tuple[int, str]:
    """Run the command in a thread of its own: the server answers on this loop."""
    result = await asyncio.to_thread(CliRunner().invoke, app, ["adapters", *arguments])
    return result.exit_code, result.output


async def test_the_command_lists_and_says_what_is_not_for_us_yet(home: Path) -> None:
    code, text = await ask("--data-dir", str(home))
    assert code == 0
    assert "ares-v1" in text
    assert "not yet" in text  # the API's clock stands at the promotion
    code, text = await ask("--data-dir", str(home), "--get", "1")
    assert (code, NotYetReleased.code in text) == (76, True)
    assert "ares-peer credits" in text


async def test_the_command_fetches_once_it_may(
    home: Path, clock: HandClock, tmp_path: Path
) -> None:
    clock.pass_s(72 * 3600)
    arguments = ("--data-dir", str(home), "--get", "1", "--to", str(tmp_path / "here"), "--json")
    code, text = await ask(*arguments)
    assert code == 0
    assert json.loads(text)["folder"] == str(tmp_path / "here" / "cycle-1")
    assert (tmp_path / "here/cycle-1/adapter_model.safetensors").read_bytes() == WEIGHTS


async def test_the_command_without_a_network_says_what_to_do(tmp_path: Path) -> None:
    code, text = await ask("--data-dir", str(tmp_path))
    assert code == 78
    assert "ares-peer join" in text
