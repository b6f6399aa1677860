"""The application: mountable under any path, or a server of its own.

host.add_subapp("/api/ares", create_app(views=views))    # inside another program
create_root_app(views=views)                              # the coordinator's own server
"""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from ares_coordinator.api.edge import add_headers, json_reply, shape_faults
from ares_coordinator.api.routes import PublicRoutes
from ares_coordinator.api.schemas import HealthReply, VersionReply
from ares_coordinator.api.views import Views
from ares_coordinator.ledger.tiers import DEFAULT_RULES, TierRule
from ares_p2p import PROTOCOL_VERSION, __version__

PREFIX = "/api/ares"
MAX_BODY_BYTES = 64 * 1024  # no read has a body; bounds what a stranger can make us hold


def create_app(
    *, views: Views, tiers: Sequence[TierRule] = DEFAULT_RULES, software: str = __version__
) -> web.Application:
    """Return the API as an application whose paths are relative to where it is mounted."""
    app = web.Application(middlewares=[add_headers, shape_faults], client_max_size=MAX_BODY_BYTES)
    app.add_routes(PublicRoutes(views, tiers, software).routes())
    return app


def create_root_app(
    *, views: Views, tiers: Sequence[TierRule] = DEFAULT_RULES, software: str = __version__
) -> web.Application:
    """Return a whole server: the API under `/api/ares`, and `/healthz` and `/version`."""
    version = VersionReply(software=software, protocol=PROTOCOL_VERSION)

    async def show_health(request: web.Request) -> web.Response:
        return json_reply(request, HealthReply(status="ok"))

    async def show_version(request: web.Request) -> web.Response:
        return json_reply(request, version)

    root = web.Application(middlewares=[add_headers, shape_faults], client_max_size=MAX_BODY_BYTES)
    root.add_routes([web.get("/healthz", show_health), web.get("/version", show_version)])
    root.add_subapp(PREFIX, create_app(views=views, tiers=tiers, software=software))
    return root
