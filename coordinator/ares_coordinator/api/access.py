"""Who asks, and how often: signed requests, and the limits of requests per minute.

A request without a signature counts under its address, one that a worker signed under the worker,
with the limit of its tier. Reads stay public: a signature opens nothing but a higher limit and
what is not released yet. A wrong signature is an error, never silently "nobody".
"""

from __future__ import annotations

import math
import time  # the limiter's own clock

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from ares_coordinator.api.edge import error_response
from ares_coordinator.ledger.tiers import BENEFITS, Tier
from ares_coordinator.tierbook import TierBook
from ares_p2p.clock import Clock
from ares_p2p.crypto.requests import SCHEME, check_request
from ares_p2p.errors import RateLimited
from ares_p2p.ids import PeerId

WORKER = web.RequestKey("worker", PeerId)
TIER = web.RequestKey("tier", Tier)


def identify(*, tiers: TierBook, clock: Clock, network_id: str) -> Middleware:
    """Return the middleware that finds out who asks; raises BadSignature for a wrong signature."""

    @web.middleware
    async def find_out(request: web.Request, handler: Handler) -> web.StreamResponse:
        header = request.headers.get(hdrs.AUTHORIZATION, "")
        request[TIER] = Tier.FREE
        if header.startswith(SCHEME):
            worker = check_request(
                header,
                network_id=network_id,
                method=request.method,
                path=request.raw_path,
                now_ms=clock.now_ms(),
            )
            request[WORKER] = worker
            request[TIER] = await tiers.tier_of(worker)
        return await handler(request)

    return find_out


def limit_requests() -> Middleware:
    """Return the middleware that counts requests; 429 with Retry-After beyond the tier's limit."""
    limiter = FixedWindowRateLimiter(MemoryStorage())
    allowed = {
        tier: RateLimitItemPerMinute(benefits.requests_per_minute)
        for tier, benefits in BENEFITS.items()
    }

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        tier, who = request[TIER], request.get(WORKER) or request.remote or ""
        item = allowed[tier]
        if not limiter.hit(item, who):
            reset_s = limiter.get_window_stats(item, who).reset_time - time.time()
            response = error_response(
                RateLimited(
                    f"more than {item.amount} requests in a minute",
                    hint="Wait as long as Retry-After says; requests that a worker signs have "
                    "the limit of its tier.",
                )
            )
            response.headers[hdrs.RETRY_AFTER] = str(max(1, math.ceil(reset_s)))
            return response
        return await handler(request)

    return count
