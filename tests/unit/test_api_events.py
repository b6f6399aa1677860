"""What happens, over the WebSocket: in order, without a gap, and nobody waits for the slow one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientWebSocketResponse, WSMsgType, WSServerHandshakeError
from aiohttp.test_utils import TestClient, TestServer

from api_samples import FakeViews, empty_views
from ares_coordinator.api import events, feed
from ares_coordinator.api.app import ApiSettings, create_root_app
from ares_p2p.errors import BadParameter, RateLimited
from store_samples import NOW

PATH = "/api/ares/events"
WAIT_S = 30.0


@dataclass(slots=True)
class Rig:
    client: TestClient[Any, Any]
    views: FakeViews

    async def add(self, kind: str = "round", **data: object) -> int:
        store = self.views.db.store
        return await self.views.db.call(store.add_event, kind, json.dumps(data), now_ms=NOW)

    async def watch(self, path: str = PATH, **headers: str) -> ClientWebSocketResponse:
        return await self.client.ws_connect(path, headers=headers)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    views = await empty_views(tmp_path)
    settings = ApiSettings(limited=False, origins=("https://friend.example",))
    async with TestClient(TestServer(create_root_app(views=views, settings=settings))) as client:
        yield Rig(client, views)
    await views.db.close()


async def said(socket: ClientWebSocketResponse) -> dict[str, Any]:
    found: dict[str, Any] = await socket.receive_json(timeout=WAIT_S)
    assert found["type"] == "ares"
    return found


async def said_numbers(socket: ClientWebSocketResponse, until: int) -> list[int]:
    """Return the numbers of the events up to one, whatever is said between them."""
    numbers: list[int] = []
    while not numbers or numbers[-1] < until:
        message = await said(socket)
        numbers += [message["seq"]] if "seq" in message else []
    return numbers


async def closed_with(socket: ClientWebSocketResponse) -> int | None:
    async with asyncio.timeout(WAIT_S):
        while True:
            message = await socket.receive()
            if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING):
                return socket.close_code


@pytest.mark.parametrize("path", [PATH, "/ws"])
async def test_who_connects_hears_the_newest_events_then_what_happens(rig: Rig, path: str) -> None:
    number = await rig.add("cycle-phase", cycle=3, phase="train")
    socket = await rig.watch(path)
    hello, event, status = [await said(socket) for _ in range(3)]
    assert hello["event"] == "hello"
    assert hello["data"] == {"newest": number, "missed": False}
    assert event == {
        "type": "ares",
        "event": "cycle-phase",
        "data": {"cycle": 3, "phase": "train"},
        "seq": number,
        "at_ms": NOW,
    }
    assert status["event"] == "status"
    assert (status["data"]["state"], status["data"]["online"]) == ("running", 1)
    assert "seq" not in status
    following = await rig.add("round", cycle=3, round=0)
    assert await said_numbers(socket, following) == [following]


async def test_a_changed_status_is_told_without_an_event(rig: Rig) -> None:
    socket = await rig.watch()
    assert [(await said(socket))["event"] for _ in range(2)] == ["hello", "status"]
    rig.views.live = replace(rig.views.live, state="paused")
    while (message := await said(socket))["data"]["state"] != "paused":
        assert message["event"] == "status"


async def test_who_comes_back_hears_exactly_what_it_missed(rig: Rig) -> None:
    numbers = [await rig.add(n=n) for n in range(8)]
    socket = await rig.watch(f"{PATH}?after={numbers[4]}")
    hello = await said(socket)
    assert hello["data"] == {"newest": numbers[-1], "missed": False}
    assert await said_numbers(socket, numbers[-1]) == numbers[5:]
    up_to_date = await rig.watch(f"{PATH}?after={numbers[-1]}")
    assert [(await said(up_to_date))["event"] for _ in range(2)] == ["hello", "status"]


async def test_who_was_away_too_long_is_told_so(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ares_coordinator.store.sql_reports.MAX_EVENTS", 3)
    numbers = [await rig.add(n=n) for n in range(9)]
    socket = await rig.watch(f"{PATH}?after={numbers[1]}")
    assert (await said(socket))["data"]["missed"] is True
    assert await said_numbers(socket, numbers[-1]) == numbers[-3:]
    other = await rig.watch(f"{PATH}?after={numbers[-1] + 1000}")  # of a database that is gone
    assert (await said(other))["data"] == {"newest": numbers[-1], "missed": True}


async def test_nobody_misses_or_hears_twice_while_events_rush_in(rig: Rig) -> None:
    wanted = 400

    async def write() -> None:
        for n in range(wanted):
            await rig.add(n=n)

    async def come_and_go() -> list[int]:
        heard: list[int] = []
        while not heard or heard[-1] < wanted:
            socket = await rig.watch(f"{PATH}?after={heard[-1] if heard else 0}")
            for _ in range(40):
                message = await said(socket)
                heard += [message["seq"]] if "seq" in message else []
                if heard and heard[-1] == wanted:
                    break
            await socket.close()
        return heard

    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
        group.create_task(write())
        watching = [group.create_task(come_and_go()) for _ in range(8)]
    for task in watching:
        assert task.result() == list(range(1, wanted + 1))


async def test_a_slow_watcher_is_let_go_and_nobody_waits_for_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "QUEUE", 8)
    monkeypatch.setattr(feed, "PAGE", 4)  # told at a time
    monkeypatch.setattr(feed, "TAIL_S", 0.01)
    slow, quick = await rig.watch(), await rig.watch()
    # the slow one's program does not read: its socket's buffers fill up, then its queue
    wanted = 300
    reading = asyncio.create_task(said_numbers(quick, wanted))
    for n in range(wanted):
        await rig.add(n=n, text="x" * 60_000)
        await asyncio.sleep(0)
    async with asyncio.timeout(WAIT_S):
        assert await reading == list(range(1, wanted + 1))
    assert await closed_with(slow) == 1013


@pytest.mark.parametrize("origin", ["https://friend.example", "http://{host}"])
async def test_pages_of_here_and_of_friends_may_watch(rig: Rig, origin: str) -> None:
    host = f"{rig.client.host}:{rig.client.port}"
    socket = await rig.watch(Origin=origin.replace("{host}", host))
    assert (await said(socket))["event"] == "hello"


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://friend.example.evil"])
async def test_pages_from_elsewhere_may_not(rig: Rig, origin: str) -> None:
    with pytest.raises(WSServerHandshakeError) as refused:
        await rig.watch(Origin=origin)
    assert refused.value.status == 400


async def test_nothing_can_be_said_to_it(rig: Rig) -> None:
    socket = await rig.watch()
    await socket.send_str("hello")
    assert await closed_with(socket) == 1008
    loud = await rig.watch()
    await loud.send_str("x" * (events.MAX_SAID_BYTES + 1))
    assert await closed_with(loud) in (1008, 1009)


@pytest.mark.parametrize("query", ["", "?after=-1", "?after=x", "?after=99999999999999999"])
async def test_a_wrong_request_is_told_why(rig: Rig, query: str) -> None:
    response = await rig.client.get(PATH + query)
    assert response.status == 400
    assert (await response.json())["error"]["code"] == BadParameter.code


async def test_too_many_watchers_are_told_to_ask_instead(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MAX_WATCHERS", 1)
    first = await rig.watch()
    await said(first)
    response = await rig.client.get(PATH)
    assert response.status == 429
    assert (await response.json())["error"]["code"] == RateLimited.code
    await first.close()
    async with asyncio.timeout(WAIT_S):
        while (await rig.client.get(PATH)).status == 429:  # until the server saw it go
            await asyncio.sleep(0.01)
    assert (await said(await rig.watch()))["event"] == "hello"


async def test_watchers_are_told_when_the_server_goes(tmp_path: Path) -> None:
    views = await empty_views(tmp_path)
    server = TestServer(create_root_app(views=views, settings=ApiSettings(limited=False)))
    async with TestClient(server) as client:
        socket = await client.ws_connect(PATH)
        await said(socket)
        closing = asyncio.create_task(server.close())
        assert await closed_with(socket) == 1001
        async with asyncio.timeout(WAIT_S):
            await closing
    await views.db.close()
