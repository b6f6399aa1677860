"""The application: mountable under any path, or a server of its own.

host.add_subapp("/api/ares", create_app(views=views))    # inside another program
create_root_app(views=views)                              # a server of its own; with pages: web.site
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.typedefs import Middleware

from ares_coordinator.api.access import LOCAL_PROXIES, identify, limit_requests
from ares_coordinator.api.adapters import AdapterRoutes
from ares_coordinator.api.edge import add_headers, json_reply, shape_faults
from ares_coordinator.api.events import EventRoutes
from ares_coordinator.api.feed import EventFeed
from ares_coordinator.api.ledger import LedgerRoutes
from ares_coordinator.api.operator import Controls, OperatorRoutes
from ares_coordinator.api.routes import PublicRoutes
from ares_coordinator.api.schemas import HealthReply, VersionReply
from ares_coordinator.api.swarm import SwarmPort, SwarmRoutes
from ares_coordinator.api.views import Views
from ares_coordinator.layout import DataLayout
from ares_coordinator.ledger.tiers import DEFAULT_RULES, TierRule
from ares_coordinator.tierbook import TierBook
from ares_p2p import PROTOCOL_VERSION, __version__
from ares_p2p.clock import Clock, SystemClock

PREFIX = "/api/ares"
EVENTS = web.AppKey("events", EventRoutes)
MAX_BODY_BYTES = 64 * 1024  # no read has a body; `api.body` bounds each body of the others


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """What the API has to know of one coordinator.

    Attributes:
        network_id: what signed requests must name.
        tiers: the rules that make tiers of credit.
        files: where the adapters lie; None: there are no downloads.
        public_release_h: hours until a new adapter is for everybody.
        limited: whether requests a minute are counted.
        proxies: addresses of reverse proxies, which name the address of who asks.
        origins: of pages elsewhere that may watch the events; "*" for all.
        swarm: what the HTTPS way needs; None: there is no such way.
        controls: what the operator may ask for; None: this API only reads.
        operator_token: what opens them.
    """

    network_id: str = ""
    tiers: Sequence[TierRule] = DEFAULT_RULES
    files: DataLayout | None = None
    public_release_h: float = 72.0
    limited: bool = True
    proxies: Sequence[str] = LOCAL_PROXIES
    origins: Sequence[str] = ()
    swarm: SwarmPort | None = None
    controls: Controls | None = None
    operator_token: str = field(default="", repr=False)
    software: str = __version__


DEFAULTS = ApiSettings()


def create_app(
    *, views: Views, settings: ApiSettings = DEFAULTS, clock: Clock | None = None
) -> web.Application:
    """Return the API as an application whose paths are relative to where it is mounted."""
    clock = SystemClock() if clock is None else clock
    book = TierBook(views.db, clock, settings.tiers)
    middlewares = [
        add_headers,
        shape_faults,
        identify(tiers=book, clock=clock, network_id=settings.network_id),
    ]
    if settings.limited:
        middlewares.append(limit_requests(proxies=settings.proxies))
    app = web.Application(middlewares=middlewares, client_max_size=MAX_BODY_BYTES)
    app.add_routes(PublicRoutes(views, settings.tiers, settings.software).routes())
    app.add_routes(LedgerRoutes(views).routes())
    app[EVENTS] = EventRoutes(EventFeed(views, clock), settings.origins, settings.proxies)
    app.add_routes(app[EVENTS].routes())
    app.cleanup_ctx.append(app[EVENTS].run)
    app.on_shutdown.append(app[EVENTS].close)
    if settings.files is not None:
        downloads = AdapterRoutes(views, settings.files, clock, settings.public_release_h)
        app.add_routes(downloads.routes())
    if settings.swarm is not None:
        app.add_routes(SwarmRoutes(settings.swarm).routes())
    if settings.controls is not None:
        app.add_routes(OperatorRoutes(settings.controls, settings.operator_token).routes())
    return app


def create_root_app(
    *,
    views: Views,
    settings: ApiSettings = DEFAULTS,
    clock: Clock | None = None,
    middlewares: Sequence[Middleware] = (),
) -> web.Application:
    """Return a whole server: the API under `/api/ares`, and `/ws`, `/healthz` and `/version`.

    Args:
        middlewares: of what is added to it; see `ares_coordinator.web.site`.
    """
    version = VersionReply(software=settings.software, protocol=PROTOCOL_VERSION)

    async def show_health(request: web.Request) -> web.Response:
        return json_reply(request, HealthReply(status="ok"))

    async def show_version(request: web.Request) -> web.Response:
        return json_reply(request, version)

    root = web.Application(
        middlewares=[add_headers, shape_faults, *middlewares], client_max_size=MAX_BODY_BYTES
    )
    api = create_app(views=views, settings=settings, clock=clock)
    root.add_routes([web.get("/healthz", show_health), web.get("/version", show_version)])
    root.add_routes([web.get("/ws", api[EVENTS].events)])
    root.add_subapp(PREFIX, api)
    return root
