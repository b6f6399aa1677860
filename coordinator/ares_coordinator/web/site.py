"""The coordinator's own server: the pages beside the API."""

from __future__ import annotations

from aiohttp import web

from ares_coordinator.api.app import DEFAULTS, ApiSettings, create_root_app
from ares_coordinator.api.views import Views
from ares_coordinator.web.pages import Pages
from ares_p2p.clock import Clock


def create_site(
    *, views: Views, settings: ApiSettings = DEFAULTS, clock: Clock | None = None
) -> web.Application:
    """Return the whole server; see `api.app` for the arguments."""
    pages = Pages(views, settings.tiers, settings.software, settings.controls is not None)
    site = create_root_app(
        views=views, settings=settings, clock=clock, middlewares=[pages.shape_faults()]
    )
    site.add_routes(pages.routes())
    return site
