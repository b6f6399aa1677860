"""`/events`: what happens, over a WebSocket. Watching is public; nothing can be said to it.

`?after=N` asks for the events after number N; without it the newest few come first. The first
message is `hello`: `newest`, and whether some in between were `missed` because they are no longer
kept. Whoever reads too slowly is closed with 1013 and may come back with the number it has.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from aiohttp import WSCloseCode, hdrs, web

from ares_coordinator.api.access import LOCAL_PROXIES, address_of
from ares_coordinator.api.feed import EventFeed, Watcher
from ares_coordinator.api.parameters import number
from ares_p2p.errors import BadParameter, RateLimited

MAX_SEQ: Final = 2**53
MAX_WATCHERS: Final = 4_000
MAX_PER_ADDRESS: Final = 64  # a class room behind one address; loopback has no such bound
MAX_SAID_BYTES: Final = 1_024
HEARTBEAT_S: Final = 30.0  # also ends connections of which the other side is gone
SEND_TIMEOUT_S: Final = 20.0
CLOSE_TIMEOUT_S: Final = 2.0


@dataclass(slots=True)
class EventRoutes:
    """The WebSocket of one coordinator.

    Args:
        origins: of pages elsewhere that may watch, such as "https://example.org"; "*" for all.
        proxies: whose X-Forwarded-For is believed.
    """

    feed: EventFeed
    origins: Collection[str] = ()
    proxies: Collection[str] = LOCAL_PROXIES
    _open: dict[web.WebSocketResponse, str] = field(default_factory=dict)

    def routes(self) -> list[web.RouteDef]:
        """Return what to add to a router."""
        return [web.get("/events", self.events)]

    async def run(self, _app: web.Application) -> AsyncIterator[None]:
        """Keep the feed going while the application runs; an aiohttp cleanup context."""
        telling = asyncio.create_task(self.feed.run(), name="events")
        yield
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)

    async def close(self, _app: web.Application) -> None:
        """Tell all watchers that the server goes; for `on_shutdown`."""
        going = [one.close(code=WSCloseCode.GOING_AWAY) for one in tuple(self._open)]
        await asyncio.gather(*going, return_exceptions=True)

    async def events(self, request: web.Request) -> web.WebSocketResponse:
        """Say what happens until the watcher goes.

        Raises: BadParameter: `after` is no number, a page from elsewhere, or this is no WebSocket.
            RateLimited: too many watchers.
        """
        after = None
        if "after" in request.query:
            after = number(request, "after", low=0, high=MAX_SEQ)
        self._check_origin(request)
        address = address_of(request, proxies=self.proxies)
        self._check_room(address)
        socket = web.WebSocketResponse(
            heartbeat=HEARTBEAT_S,
            timeout=CLOSE_TIMEOUT_S,
            max_msg_size=MAX_SAID_BYTES,
            compress=False,  # texts are small, and many read the same ones
        )
        if not socket.can_prepare(request).ok:
            raise BadParameter(
                "a WebSocket expected",
                hint="Open it with ws:// or wss://; or GET /api/ares/status.",
            )
        self._open[socket] = address
        watcher = Watcher()
        try:
            await socket.prepare(request)
            await self._serve(socket, watcher, after=after)
        finally:
            self.feed.leave(watcher)
            del self._open[socket]
        return socket

    async def _serve(
        self, socket: web.WebSocketResponse, watcher: Watcher, *, after: int | None
    ) -> None:
        first = await self.feed.join(watcher, after=after)
        tasks = {
            asyncio.create_task(_send(socket, watcher, first), name="events-send"),
            asyncio.create_task(_listen(socket), name="events-listen"),
            asyncio.create_task(watcher.lagging.wait(), name="events-lagging"),
        }
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if watcher.lagging.is_set():
            with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
                await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=b"reads too slowly")

    def _check_origin(self, request: web.Request) -> None:
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None or "*" in self.origins or origin in self.origins:
            return
        if urlsplit(origin).netloc == request.host:
            return
        raise BadParameter(
            f"a page from {origin[:80]} may not watch here",
            hint="The operator may allow it: network.api_origins in config.toml.",
        )

    def _check_room(self, address: str) -> None:
        here = Counter(self._open.values())[address]
        if len(self._open) >= MAX_WATCHERS or (
            here >= MAX_PER_ADDRESS and address not in LOCAL_PROXIES
        ):
            raise RateLimited(
                "too many are watching", hint="Ask GET /api/ares/status every few seconds instead."
            )


async def _send(socket: web.WebSocketResponse, watcher: Watcher, first: list[str]) -> None:
    for text in first:
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await socket.send_str(text)
    while True:
        text = await watcher.texts.get()
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await socket.send_str(text)


async def _listen(socket: web.WebSocketResponse) -> None:
    """Return when the watcher goes, or says anything: there is nothing to say."""
    async for _ in socket:
        await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"this is to listen to")
