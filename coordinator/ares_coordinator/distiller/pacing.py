"""How many requests may be on their way at once, and when nobody may send.

The limit is halved by a 429 or 529 and grows by about one for every round of answers; a burst of
refusals halves it once. Whoever asks us to wait (`retry-after`, or a rate-limit header that says
that nothing is left until a moment) is obeyed by all requests, not only by the refused one.

Nothing here sends: the clock and the random generator are passed in.

Source: platform.claude.com/docs, rate limits; additive increase, multiplicative decrease (Chiu and
Jain, 1989).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from ares_p2p.clock import Clock, sleep_or
from ares_p2p.errors import TeacherAway

FIRST_PAUSE_S: Final = 1.0
MAX_PAUSE_S: Final = 60.0  # of our own choosing
MAX_OBEYED_S: Final = 3600.0  # longer than that the run ends instead of waiting
KINDS: Final = ("requests", "tokens", "input-tokens", "output-tokens")


class Stopped(Exception):
    """The run was told to stop: what is on its way is awaited, nothing more is sent."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The right to have one request on its way, given in the state of an epoch."""

    epoch: int


class Pacer:
    """Hands out slots. For one event loop.

    Args:
        most: the limit that is never passed.
        rng: spreads the pauses of several coordinators.
    """

    def __init__(self, *, most: int, clock: Clock, rng: random.Random) -> None:
        self._most = most
        self._limit = float(most)
        self._clock = clock
        self._rng = rng
        self._busy = 0
        self._epoch = 0
        self._refusals = 0  # since the last answer
        self._paused_until_ms = 0
        self._changed = asyncio.Condition()
        self._stopping = asyncio.Event()

    @property
    def limit(self) -> int:
        """How many requests may be on their way now."""
        return max(1, int(self._limit))

    @property
    def busy(self) -> int:
        """How many slots are taken."""
        return self._busy

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Slot]:
        """Wait for a slot and hold it.

        Raises: Stopped.
        """
        await self._enter()
        try:
            yield Slot(self._epoch)
        finally:
            self._busy -= 1
            async with self._changed:
                self._wake()

    async def _enter(self) -> None:
        while True:
            async with self._changed:
                try:
                    await self._changed.wait_for(
                        lambda: self._stopping.is_set() or self._busy < self.limit
                    )
                except asyncio.CancelledError:
                    self._wake()  # it may have been woken for nothing
                    raise
                if self._stopping.is_set():
                    raise Stopped
                wait_ms = self._paused_until_ms - self._clock.now_ms()
                if wait_ms <= 0:
                    self._busy += 1
                    return
            await self.wait(wait_ms / 1000)

    def _wake(self) -> None:
        """Wake as many as there are slots: hundreds may wait."""
        self._changed.notify(max(0, self.limit - self._busy))

    async def wait(self, seconds: float) -> None:
        """Return after `seconds`, or at once when the run is told to stop."""
        await sleep_or(self._clock, seconds, self._stopping)

    async def stop(self) -> None:
        """Give no more slots."""
        self._stopping.set()
        async with self._changed:
            self._changed.notify_all()

    @property
    def is_stopping(self) -> bool:
        """Whether the run was told to stop."""
        return self._stopping.is_set()

    def answered(self, headers: Mapping[str, str], *, next_tokens: int) -> None:
        """Note an answer: the limit grows, and its headers may ask for a pause.

        Args:
            next_tokens: what a request like this one asks for; the provider estimates the output
                from `max_tokens`, so less than that is nothing.
        """
        self._refusals = 0
        self._limit = min(float(self._most), self._limit + 1 / self._limit)
        self._pause_until(self._reset_ms(headers, next_tokens=next_tokens))

    def refused(self, slot: Slot, headers: Mapping[str, str]) -> None:
        """Note a 429 or 529: half as many at once, and a pause for all.

        Raises: TeacherAway: the provider asks for a longer pause than anybody wants to sit out.
        """
        if slot.epoch == self._epoch:  # later ones of a burst were sent before we slowed down
            self._limit = max(1.0, self._limit / 2)
            self._epoch += 1
            self._refusals += 1
        asked_s = self._asked_s(headers)
        if asked_s is None:
            asked_s = self.backoff_s(self._refusals)
        elif asked_s > MAX_OBEYED_S:
            raise TeacherAway(f"the teacher asks us to come back in {asked_s / 3600:.1f} hours")
        self._pause_until(self._clock.now_ms() + round(asked_s * 1000))

    def backoff_s(self, failures: int) -> float:
        """Return a pause of our own choosing after so many failures, from 1 on."""
        longest = min(MAX_PAUSE_S, FIRST_PAUSE_S * float(2 ** min(failures - 1, 10)))
        return longest * self._rng.uniform(0.75, 1.0)

    def _pause_until(self, moment_ms: int) -> None:
        self._paused_until_ms = max(self._paused_until_ms, moment_ms)

    def _asked_s(self, headers: Mapping[str, str]) -> float | None:
        text = headers.get("retry-after", "").strip()
        try:
            return max(0.0, float(text))
        except ValueError:
            pass
        try:
            moment = parsedate_to_datetime(text)
        except ValueError:
            return None
        return max(0.0, moment.timestamp() - self._clock.now_ms() / 1000)

    def _reset_ms(self, headers: Mapping[str, str], *, next_tokens: int) -> int:
        """Return when the scarcest of the limits is full again; 0 when nothing is scarce."""
        latest = 0
        for kind in KINDS:
            left = headers.get(f"anthropic-ratelimit-{kind}-remaining", "")
            needed = next_tokens if kind == "output-tokens" else 1
            if left.isdigit() and int(left) < needed:
                latest = max(latest, _moment_ms(headers.get(f"anthropic-ratelimit-{kind}-reset")))
        return min(latest, self._clock.now_ms() + round(MAX_PAUSE_S * 1000))


def _moment_ms(text: str | None) -> int:
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return 0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)
