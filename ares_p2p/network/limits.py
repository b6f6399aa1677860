"""Limits for what strangers may ask of this node: rates and concurrent streams, per remote.

Memory is bounded too: the remotes that were silent longest are forgotten first.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator

from ares_p2p.errors import RateLimited
from ares_p2p.ids import PeerId

MAX_REMOTES = 4096


class TokenBucket:
    """`rate_per_s` on average, `burst` at once."""

    def __init__(
        self, rate_per_s: float, burst: float, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._monotonic = monotonic
        self._tokens = burst
        self._updated = monotonic()

    def take(self, amount: float = 1.0) -> float:
        """Take `amount` and return for how many seconds the taker should wait (0: go on)."""
        now = self._monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._rate_per_s)
        self._updated = now
        self._tokens -= amount
        return max(0.0, -self._tokens / self._rate_per_s)

    def give_back(self, amount: float = 1.0) -> None:
        """Undo a `take` that was not used."""
        self._tokens += amount


class RemoteLimits:
    """Bounds each remote's requests per second and streams at a time."""

    def __init__(
        self,
        *,
        requests_per_s: float,
        burst: float,
        streams_per_remote: int,
        streams: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests_per_s = requests_per_s
        self._burst = burst
        self._streams_per_remote = streams_per_remote
        self._streams = streams
        self._monotonic = monotonic
        self._buckets: OrderedDict[PeerId, TokenBucket] = OrderedDict()
        self._open: Counter[PeerId] = Counter()

    def check_rate(self, remote: PeerId) -> None:
        """Count one request.

        Raises: RateLimited.
        """
        bucket = self._buckets.get(remote)
        if bucket is None:
            bucket = TokenBucket(self._requests_per_s, self._burst, monotonic=self._monotonic)
            self._buckets[remote] = bucket
            if len(self._buckets) > MAX_REMOTES:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(remote)
        if bucket.take() > 0:
            bucket.give_back()
            raise RateLimited(f"more than {self._requests_per_s:g} requests a second")

    @contextlib.contextmanager
    def stream(self, remote: PeerId) -> Iterator[None]:
        """Hold one stream open.

        Raises: RateLimited: too many at a time.
        """
        if self._open[remote] >= self._streams_per_remote or self._open.total() >= self._streams:
            raise RateLimited(f"more than {self._streams_per_remote} streams at a time")
        self._open[remote] += 1
        try:
            yield
        finally:
            self._open[remote] -= 1
            if self._open[remote] <= 0:
                del self._open[remote]


class Throttle:
    """Slows a flow of bytes down to a rate; None lets everything pass."""

    def __init__(self, rate_bytes_per_s: float | None) -> None:
        self._bucket = (
            None
            if rate_bytes_per_s is None
            else TokenBucket(rate_bytes_per_s, max(rate_bytes_per_s, 64 * 1024))
        )

    async def wait(self, size_bytes: int) -> None:
        """Return when `size_bytes` more may pass."""
        if self._bucket is not None:
            await asyncio.sleep(self._bucket.take(size_bytes))
