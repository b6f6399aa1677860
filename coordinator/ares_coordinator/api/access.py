"""Who asks, and how often: signed requests, and the limits of requests per minute.

A request without a signature counts under its address, one that a worker signed under the worker,
with the limit of its tier. Reads stay public: a signature opens nothing but a higher limit, what is
not released yet, and the HTTPS way (`swarm`). Its requests have a limit of their own, because a
peer asks for its records every second; whatever is signed counts under its address too, or a crowd
of made-up identities could ask without any limit. A wrong signature is an error, never silently
"nobody". Behind a reverse proxy the address is the one that the proxy names.
"""

from __future__ import annotations

import ipaddress
import math
import time  # the limiter's own clock
from collections.abc import Collection

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from ares_coordinator.api.edge import READS, error_response
from ares_coordinator.ledger.tiers import BENEFITS, Tier
from ares_coordinator.tierbook import TierBook
from ares_p2p.clock import Clock
from ares_p2p.crypto.requests import NO_BODY, SCHEME, check_request, read_content_digest
from ares_p2p.errors import RateLimited
from ares_p2p.ids import Digest, PeerId

WORKER = web.RequestKey("worker", PeerId)
TIER = web.RequestKey("tier", Tier)
BODY_SHA256 = web.RequestKey("body_sha256", bytes)  # that the worker signed
LOCAL_PROXIES = ("127.0.0.1", "::1")
SWARM_PER_MINUTE = 1_800  # 30 a second: three reads every 0.4 s, and what a round adds
ADDRESS_PER_MINUTE = 12_000  # signed by whomever: a household's peers, not a thousand identities


def identify(*, tiers: TierBook, clock: Clock, network_id: str) -> Middleware:
    """Return the middleware that finds out who asks; raises BadSignature for a wrong signature."""

    @web.middleware
    async def find_out(request: web.Request, handler: Handler) -> web.StreamResponse:
        header = request.headers.get(hdrs.AUTHORIZATION, "")
        request[TIER] = Tier.FREE
        if header.startswith(SCHEME):
            body_sha256: Digest = NO_BODY
            if request.method not in READS:
                body_sha256 = read_content_digest(request.headers.get("Content-Digest", ""))
            worker = check_request(
                header,
                network_id=network_id,
                method=request.method,
                path=request.raw_path,
                now_ms=clock.now_ms(),
                body_sha256=body_sha256,
            )
            request[BODY_SHA256] = body_sha256
            request[WORKER] = worker
            request[TIER] = await tiers.tier_of(worker)
        return await handler(request)

    return find_out


def address_of(request: web.Request, *, proxies: Collection[str]) -> str:
    """Return the address that a request comes from: of a proxy of ours, the one that it names."""
    remote = request.remote or ""
    if remote not in proxies:
        return remote
    named = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
    try:
        return str(ipaddress.ip_address(named))
    except ValueError:
        return remote


def limit_requests(*, proxies: Collection[str] = LOCAL_PROXIES) -> Middleware:
    """Return the middleware that counts requests; 429 with Retry-After beyond the limit.

    Args:
        proxies: addresses whose `X-Forwarded-For` is believed.
    """
    limiter = FixedWindowRateLimiter(MemoryStorage())
    by_tier = {
        tier: RateLimitItemPerMinute(benefits.requests_per_minute)
        for tier, benefits in BENEFITS.items()
    }
    of_swarm = RateLimitItemPerMinute(SWARM_PER_MINUTE, namespace="swarm")
    of_address = RateLimitItemPerMinute(ADDRESS_PER_MINUTE, namespace="address")

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        address, worker = address_of(request, proxies=proxies), request.get(WORKER)
        is_swarm = worker is not None and "/swarm/" in request.path
        counted = [(of_swarm if is_swarm else by_tier[request[TIER]], worker or address)]
        if worker is not None:
            counted.append((of_address, address))
        for item, who in counted:
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
