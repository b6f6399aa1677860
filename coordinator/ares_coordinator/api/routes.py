"""One handler per path. All are reads; paths are relative to where the application is mounted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import hdrs, web

from ares_coordinator.api.edge import json_list_reply, json_reply
from ares_coordinator.api.parameters import number, peer_id, word
from ares_coordinator.api.present import (
    present_data,
    present_model,
    present_network,
    present_status,
    present_training,
)
from ares_coordinator.api.present_credit import (
    present_credits,
    present_leaderboard,
    present_worker,
)
from ares_coordinator.api.reads import (
    read_credits,
    read_data,
    read_model,
    read_status,
    read_training,
    read_worker,
)
from ares_coordinator.api.views import Views
from ares_coordinator.ledger.tiers import TierRule
from ares_p2p.errors import CoordinatorAway, UnknownWorker

DEFAULT_LIMIT = 10
MAX_LIMIT = 100
TOTAL, RECENT = ORDERS = ("total", "recent")
MAX_PAGE = 100_000  # pages are found by counting through an index: bounds that


@dataclass(frozen=True, slots=True)
class PublicRoutes:
    """The reads of one coordinator."""

    views: Views
    tiers: Sequence[TierRule]
    software: str

    def routes(self) -> list[web.RouteDef]:
        """Return what to add to a router."""
        return [
            web.get("/status", self.status),
            web.get("/model", self.model),
            web.get("/training", self.training),
            web.get("/data", self.data),
            web.get("/credits", self.credits),
            web.get("/leaderboard", self.leaderboard),
            web.get("/network", self.network),
        ]

    async def status(self, request: web.Request) -> web.Response:
        """Everything at a glance."""
        db = self.views.db
        read = await db.call(read_status, db.store, self.tiers)
        live = self.views.snapshot()
        reply = present_status(read, live, tiers=self.tiers, software=self.software)
        return json_reply(request, reply)

    async def model(self, request: web.Request) -> web.Response:
        """The base, the adapters, and what each cycle brought."""
        db = self.views.db
        cycles, merged = await db.call(read_model, db.store)
        reply = present_model(cycles, self.views.snapshot(), merged_after=merged)
        return json_reply(request, reply)

    async def training(self, request: web.Request) -> web.Response:
        """The newest cycle, its rounds, the swarm."""
        db = self.views.db
        read = await db.call(read_training, db.store)
        return json_reply(request, present_training(read, self.views.snapshot()))

    async def data(self, request: web.Request) -> web.Response:
        """Dataset statistics, and how the teacher is."""
        db = self.views.db
        return json_reply(request, present_data(await db.call(read_data, db.store)))

    async def credits(self, request: web.Request) -> web.Response:
        """Tiers of the network, or one worker with `?workerId=`."""
        db = self.views.db
        if "workerId" not in request.query:
            read = await db.call(read_credits, db.store, self.tiers)
            return json_reply(request, present_credits(read, self.tiers))
        peer = peer_id(request, "workerId")
        worker = await db.call(read_worker, db.store, peer)
        if worker is None:
            raise UnknownWorker(f"nobody with the id {peer} ever took part")
        now_ms = self.views.snapshot().at_ms
        return json_reply(request, present_worker(worker, self.tiers, now_ms=now_ms))

    async def leaderboard(self, request: web.Request) -> web.Response:
        """Those with the most settled credit, a bare array.

        `?limit=` 1 to 100; `?page=` from 1 on; `?by=recent` orders by credit that halves every 30
        days. A `Link` header names the next page, if there is one.
        """
        limit = number(request, "limit", low=1, high=MAX_LIMIT, default=DEFAULT_LIMIT)
        page = number(request, "page", low=1, high=MAX_PAGE, default=1)
        by_recent = word(request, "by", ORDERS) == RECENT
        db, skipped = self.views.db, (page - 1) * limit
        rows = await db.call(db.store.leaderboard, limit + 1, offset=skipped, by_recent=by_recent)
        replies = present_leaderboard(
            rows[:limit],
            self.tiers,
            first_rank=skipped + 1,
            now_ms=self.views.snapshot().at_ms,
        )
        response = json_list_reply(request, list(replies))
        if len(rows) > limit and page < MAX_PAGE:
            following = request.rel_url.update_query(page=str(page + 1))
            response.headers[hdrs.LINK] = f'<{following}>; rel="next"'
        return response

    async def network(self, request: web.Request) -> web.Response:
        """How to join: the invite, and the signed descriptor."""
        db, invite = self.views.db, self.views.invite
        record = await db.call(db.store.record, "network", 0, 0)
        if record is None or not invite:
            raise CoordinatorAway("this coordinator has not published its network yet")
        return json_reply(request, present_network(record, invite))
