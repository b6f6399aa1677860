"""Asks the network's API for a volunteer's tier: the thresholds are the network's own.

It is a courtesy of the table of credits: whoever does not answer at once is not waited for, and
nothing that it says enters a check.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

from ares_p2p.ids import PeerId
from ares_peer.events import clean_text

TIMEOUT_S = 2.0
MAX_REPLY_BYTES = 256 * 1024
MAX_CREDITS = 1e12


@dataclass(frozen=True, slots=True)
class TierView:
    """A tier, and what is missing to the next one."""

    tier: str
    next_tier: str = ""
    missing_credits: float = 0.0
    missing_gpu: bool = False


def ask_tier(api_url: str, peer: PeerId) -> TierView | None:
    """Return the tier as the API says it; None when it does not answer, or knows nobody."""
    try:
        return _read(asyncio.run(_ask(api_url, peer)))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


async def _ask(api_url: str, peer: PeerId) -> bytes:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    url = f"{api_url.rstrip('/')}/api/ares/credits"
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.get(url, params={"workerId": peer}, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise ValueError(f"status {response.status}")
            return await response.content.read(MAX_REPLY_BYTES)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise OSError(str(error)) from error


def _read(body: bytes) -> TierView:
    info = json.loads(body)["tierInfo"]
    missing = float(info["missingCredits"])
    if not 0 <= missing <= MAX_CREDITS:
        raise ValueError("credits out of range")
    following = info["nextTier"]
    return TierView(
        clean_text(str(info["tier"]))[:40],
        "" if following is None else clean_text(str(following))[:40],
        missing,
        missing_gpu=info["missingGpu"] is True,
    )
