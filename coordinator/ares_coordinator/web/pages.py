"""The pages of one coordinator: `/`, `/evolution`, `/leaderboard`, `/u/<peer>`, `/credits-explained`.

Each is rendered from the replies that the API gives, so the two cannot say different things. A page
that was rendered a moment ago is given again: a thousand watchers that hear of a round at once cost
one rendering.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import jinja2
import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from ares_coordinator.api.errors import status_of
from ares_coordinator.api.parameters import number, word
from ares_coordinator.api.present import present_status
from ares_coordinator.api.present_credit import present_leaderboard, present_worker
from ares_coordinator.api.reads import StatusRead, read_status, read_worker
from ares_coordinator.api.routes import MAX_PAGE, ORDERS, RECENT
from ares_coordinator.api.views import Views
from ares_coordinator.ledger.tiers import TierRule
from ares_coordinator.store.base import Store
from ares_coordinator.store.credit_rows import StandingRow
from ares_coordinator.store.rows import EventRow
from ares_coordinator.web.charts import line_chart
from ares_coordinator.web.wording import FILTERS
from ares_p2p.domain import CATEGORIES
from ares_p2p.errors import AresError, InternalFault, UnknownPath, UnknownWorker
from ares_p2p.ids import PeerId, sha256

HERE: Final = Path(__file__).resolve().parent
STATIC: Final = HERE / "static"
FRESH_S: Final = 0.5
MAX_KEPT: Final = 64  # pages, of at most some 200 kB
PER_PAGE: Final = 50
EVENTS_SHOWN: Final = 30
PHASES: Final = ("generate", "prepare", "publish", "train", "stack", "evaluate", "settle")
# of the phases that are no step of their own in the picture
SHOWN_AS: Final = {"promote": "evaluate", "rollback": "evaluate", "merge": "settle"}
PAGE_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}

log = structlog.get_logger(__name__)

Render = Callable[[], Awaitable[str]]


@dataclass(slots=True)
class Kept:
    """Pages of the last moment, by address."""

    monotonic: Callable[[], float] = time.monotonic
    _pages: OrderedDict[str, tuple[asyncio.Task[str], float]] = field(default_factory=OrderedDict)

    async def get(self, address: str, render: Render) -> str:
        """Return the page; render it if it is not there, or old, or could not be rendered."""
        now_s = self.monotonic()
        task, at_s = self._pages.get(address, (None, 0.0))
        if task is None or (task.done() and (now_s - at_s > FRESH_S or task.exception())):
            task = asyncio.ensure_future(render())
            self._pages[address] = (task, now_s)
            self._pages.move_to_end(address)
            while len(self._pages) > MAX_KEPT:
                self._pages.popitem(last=False)
        return await asyncio.shield(task)


def open_templates() -> jinja2.Environment:
    """Return the templates: what they print is text unless it says otherwise, and names must exist."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(FILTERS)
    return found


@dataclass(frozen=True, slots=True)
class Pages:
    """The pages of one coordinator.

    Args:
        tiers: the rules that make tiers of credit.
        software: its version.
        controls: whether the operator may do something here.
    """

    views: Views
    tiers: Sequence[TierRule]
    software: str
    controls: bool
    kept: Kept = field(default_factory=Kept)
    templates: jinja2.Environment = field(default_factory=open_templates)

    def routes(self) -> list[web.AbstractRouteDef]:
        """Return what to add to a router."""
        return [
            web.get("/", self.status),
            web.get("/evolution", self.evolution),
            web.get("/leaderboard", self.leaderboard),
            web.get("/u/{peer}", self.worker),
            web.get("/credits-explained", self.credits),
            web.static("/static", STATIC),
        ]

    async def status(self, request: web.Request) -> web.Response:
        """What this network is, how it is, and how to join."""
        return await self._page(request, "status.html", self._status)

    async def evolution(self, request: web.Request) -> web.Response:
        """All about the model and its training, and the operator's controls."""
        return await self._page(request, "evolution.html", self._evolution)

    async def credits(self, request: web.Request) -> web.Response:
        """What credit is, how it is earned, and how it can be checked."""
        return await self._page(request, "credits.html", self._credits)

    async def leaderboard(self, request: web.Request) -> web.Response:
        """Who contributed most, in all or lately."""
        page = number(request, "page", low=1, high=MAX_PAGE // PER_PAGE, default=1)
        by = word(request, "by", ORDERS)

        async def read() -> Mapping[str, Any]:
            rows = await self._standings(PER_PAGE + 1, skipped=(page - 1) * PER_PAGE, by=by)
            shown = self._present_standings(rows[:PER_PAGE], first=(page - 1) * PER_PAGE + 1)
            return {"rows": shown, "page": page, "by": by, "more": len(rows) > PER_PAGE}

        return await self._page(request, "leaderboard.html", read)

    async def worker(self, request: web.Request) -> web.Response:
        """One volunteer: credit, and what became of each contribution.

        Raises: UnknownWorker.
        """
        peer = PeerId(request.match_info["peer"])
        found = await self.views.db.call(read_worker, self.views.db.store, peer)
        if found is None:
            raise UnknownWorker(f"nobody with the id {peer[:80]} ever took part")

        async def read() -> Mapping[str, Any]:
            now_ms = self.views.snapshot().at_ms
            worker = present_worker(found, self.tiers, now_ms=now_ms)
            return {"worker": worker, "online": peer in self.views.snapshot().online}

        return await self._page(request, "worker.html", read)

    # --- what they show ------------------------------------------------------------------------

    async def _status(self) -> Mapping[str, Any]:
        return {"status": await self._everything(), "invite": self.views.invite}

    async def _credits(self) -> Mapping[str, Any]:
        return {"status": await self._everything()}

    async def _evolution(self) -> Mapping[str, Any]:
        status = await self._everything()
        rounds, history = status.training.rounds, status.model.history
        top = await self._standings(10, skipped=0, by=ORDERS[0])
        phase = status.training.phase or ""
        return {
            "status": status,
            "phases": PHASES,
            "phase": SHOWN_AS.get(phase, phase),
            "losses": line_chart(
                [
                    ("training", [(one.round + 1, one.mean_loss) for one in rounds]),
                    ("held-out", [(one.round + 1, one.held_out_loss) for one in rounds]),
                ]
            ),
            "evaluations": line_chart(
                [
                    ("before", [(one.cycle, one.loss_before) for one in history]),
                    ("after", [(one.cycle, one.loss_after) for one in history]),
                ]
            ),
            "categories": CATEGORIES,
            "leaders": self._present_standings(top, first=1),
            "events": await self._events(),
            "controls": self.controls,
        }

    async def _everything(self) -> Any:
        db = self.views.db
        read: StatusRead = await db.call(read_status, db.store, self.tiers)
        live = self.views.snapshot()
        return present_status(read, live, tiers=self.tiers, software=self.software)

    async def _standings(self, count: int, *, skipped: int, by: str) -> Sequence[StandingRow]:
        db = self.views.db
        return await db.call(db.store.leaderboard, count, offset=skipped, by_recent=by == RECENT)

    def _present_standings(self, rows: Sequence[StandingRow], *, first: int) -> list[Any]:
        now_ms = self.views.snapshot().at_ms
        return list(present_leaderboard(rows, self.tiers, first_rank=first, now_ms=now_ms))

    async def _events(self) -> list[EventRow]:
        db = self.views.db
        return list(reversed(await db.call(_newest_events, db.store)))

    # --- how they are served -------------------------------------------------------------------

    async def _page(
        self, request: web.Request, template: str, read: Callable[[], Awaitable[Mapping[str, Any]]]
    ) -> web.Response:
        async def render() -> str:
            facts = {**await read(), "live": self.views.snapshot()}
            return self.render(template, path=request.path, **facts)

        text = await self.kept.get(request.path_qs, render)
        return page_response(request, text)

    def render(self, template: str, **facts: Any) -> str:
        """Return a page's text."""
        return self.templates.get_template(template).render(software=self.software, **facts)

    def shape_faults(self) -> Middleware:
        """Return the middleware that answers a browser's faults with a page."""

        @web.middleware
        async def shape(request: web.Request, handler: Handler) -> web.StreamResponse:
            if "text/html" not in request.headers.get(hdrs.ACCEPT, ""):
                return await handler(request)
            try:
                return await handler(request)
            except AresError as fault:
                return self._fault(request, fault, status_of(fault))
            except web.HTTPException as refused:
                if refused.status < HTTPStatus.BAD_REQUEST:
                    raise
                unknown = UnknownPath(f"there is nothing at {request.path[:100]}")
                return self._fault(request, unknown, refused.status)
            except Exception:
                log.exception("page_crashed", path=request.path)
                crash = InternalFault("this page could not be made; the coordinator's log says why")
                return self._fault(request, crash, HTTPStatus.INTERNAL_SERVER_ERROR)

        return shape

    def _fault(self, request: web.Request, fault: AresError, status: int) -> web.Response:
        live = self.views.snapshot()
        text = self.render("error.html", path=request.path, fault=fault, live=live)
        response = web.Response(text=text, content_type="text/html", status=status)
        response.headers.update(PAGE_HEADERS)
        return response


def _newest_events(store: Store) -> tuple[EventRow, ...]:
    return store.events_after(store.newest_event_id() - EVENTS_SHOWN, EVENTS_SHOWN)


def page_response(request: web.Request, text: str) -> web.Response:
    """Return a page, or 304 when the asker has it already."""
    tag = sha256(text.encode()).hex()[:32]
    known = request.if_none_match or ()
    if any(one.value in (tag, "*") for one in known):
        response = web.Response(status=HTTPStatus.NOT_MODIFIED)
    else:
        response = web.Response(text=text, content_type="text/html")
        response.enable_compression()
    response.etag = tag
    response.headers[hdrs.CACHE_CONTROL] = "no-cache"
    response.headers.update(PAGE_HEADERS)
    return response
