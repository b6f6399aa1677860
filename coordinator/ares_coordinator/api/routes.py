"""One handler per path. All are reads; paths are relative to where the application is mounted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

from ares_coordinator.api.edge import json_list_reply, json_reply
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
from ares_coordinator.api.reads import read_credits, read_status, read_training, read_worker
from ares_coordinator.api.views import Views
from ares_coordinator.ledger.tiers import TierRule
from ares_p2p.errors import BadParameter, CoordinatorAway, UnknownWorker
from ares_p2p.ids import PeerId

DEFAULT_LIMIT = 10
MAX_LIMIT = 100
MAX_LIMIT_CHARS = 4
MAX_WORKER_ID_CHARS = 128  # an Ed25519 peer id has 52


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
        read = await db.call(read_status, db.store)
        live = self.views.snapshot()
        reply = present_status(read, live, tiers=self.tiers, software=self.software)
        return json_reply(request, reply)

    async def model(self, request: web.Request) -> web.Response:
        """The base, the adapters, and what each cycle brought."""
        db = self.views.db
        cycles = await db.call(db.store.cycles)
        return json_reply(request, present_model(cycles, self.views.snapshot()))

    async def training(self, request: web.Request) -> web.Response:
        """The newest cycle, its rounds, the swarm."""
        db = self.views.db
        read = await db.call(read_training, db.store)
        return json_reply(request, present_training(read, self.views.snapshot()))

    async def data(self, request: web.Request) -> web.Response:
        """Dataset statistics."""
        db = self.views.db
        return json_reply(request, present_data(await db.call(db.store.datasets)))

    async def credits(self, request: web.Request) -> web.Response:
        """Tiers of the network, or one worker with `?workerId=`."""
        db = self.views.db
        if "workerId" not in request.query:
            read = await db.call(read_credits, db.store)
            return json_reply(request, present_credits(read, self.tiers))
        peer = _worker_id(request)
        worker = await db.call(read_worker, db.store, peer)
        if worker is None:
            raise UnknownWorker(f"nobody with the id {peer} ever took part")
        return json_reply(request, present_worker(worker, self.tiers))

    async def leaderboard(self, request: web.Request) -> web.Response:
        """Those with the most settled credit, a bare array; `?limit=` 1 to 100."""
        limit, db = _limit(request), self.views.db
        rows = await db.call(db.store.leaderboard, limit)
        return json_list_reply(request, list(present_leaderboard(rows, self.tiers)))

    async def network(self, request: web.Request) -> web.Response:
        """How to join: the invite, and the signed descriptor."""
        db, invite = self.views.db, self.views.invite
        record = await db.call(db.store.record, "network", 0, 0)
        if record is None or not invite:
            raise CoordinatorAway("this coordinator has not published its network yet")
        return json_reply(request, present_network(record, invite))


def _limit(request: web.Request) -> int:
    text = request.query.get("limit", str(DEFAULT_LIMIT))
    if len(text) <= MAX_LIMIT_CHARS and text.isascii() and text.isdigit():
        limit = int(text)
        if 1 <= limit <= MAX_LIMIT:
            return limit
    raise BadParameter(
        f"limit={text[:20]!r}: a whole number from 1 to {MAX_LIMIT} expected",
        hint=f"Leave it out for {DEFAULT_LIMIT}.",
    )


def _worker_id(request: web.Request) -> PeerId:
    text = request.query["workerId"]
    if not 1 <= len(text) <= MAX_WORKER_ID_CHARS or not (text.isascii() and text.isalnum()):
        raise BadParameter(
            f"workerId of {len(text)} characters is no peer id",
            hint="`ares-peer status` prints it; it begins with 12D3KooW.",
        )
    return PeerId(text)
