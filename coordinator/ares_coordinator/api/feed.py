"""What happens, for those who look on: the stored events in order, and how the network is right now.

Events come from the store, each with its id as a sequence number. Whoever connects gets those after
the number it names, then every new one: a page that was away misses nothing that is still kept.
Between them goes `status`, which only the present moment knows; it has no number.

Every watcher has a queue of its own. One that does not read is let go when its queue is full, and
nobody else waits for it. A text is made once, however many are watching. While nobody watches, the
store is not asked.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from ares_coordinator.api.views import LiveSnapshot, Views
from ares_coordinator.store.rows import EventRow
from ares_p2p.clock import Clock
from ares_p2p.errors import AresError

TAIL_S: Final = 0.25  # between two looks at the store: how old an event is when it arrives
STATUS_S: Final = 2.0
REPLAYED: Final = 50  # events for a watcher that names no number
MAX_REPLAYED: Final = 1_000  # and at most: the store keeps 10,000, a page does not want them all
PAGE: Final = 200  # events that are told at a time
QUEUE: Final = 2 * PAGE  # texts of about 300 bytes that wait for one watcher

log = structlog.get_logger(__name__)


def text_of(kind: str, data: object, *, number: int | None = None, at_ms: int | None = None) -> str:
    """Return a message as it goes over the wire.

    Args:
        number: of a stored event; None for what is not stored.
        at_ms: when it happened.
    """
    message: dict[str, Any] = {"type": "ares", "event": kind, "data": data}
    if number is not None:
        message["seq"] = number
    if at_ms is not None:
        message["at_ms"] = at_ms
    return json.dumps(message, separators=(",", ":"))


def text_of_event(row: EventRow) -> str:
    """Return a stored event as it goes over the wire."""
    return text_of(row.type, json.loads(row.data_json), number=row.id, at_ms=row.at_ms)


@dataclass(eq=False, slots=True)
class Watcher:
    """One who looks on. `lagging` is set when it does not read fast enough: nothing follows."""

    texts: asyncio.Queue[str] = field(default_factory=lambda: asyncio.Queue(QUEUE))
    lagging: asyncio.Event = field(default_factory=asyncio.Event)

    def offer(self, text: str) -> None:
        """Put a text into the queue; set `lagging` if it is full."""
        try:
            self.texts.put_nowait(text)
        except asyncio.QueueFull:
            self.lagging.set()


@dataclass(slots=True)
class EventFeed:
    """Tells all watchers of one coordinator; `run` must run while there are any."""

    views: Views
    clock: Clock
    watchers: set[Watcher] = field(default_factory=set)
    _newest: int = 0  # the last event that watchers have
    _order: asyncio.Lock = field(default_factory=asyncio.Lock)
    _watched: asyncio.Event = field(default_factory=asyncio.Event)
    _status: str = ""

    async def join(self, watcher: Watcher, *, after: int | None) -> list[str]:
        """Add a watcher; return what it has to be sent before its queue.

        Args:
            after: the number of the last event that it has; None for the newest few.
        """
        store = self.views.db.store
        async with self._order:
            if not self.watchers:
                self._newest = await self.views.db.call(store.newest_event_id)
            unknown = after is not None and after > self._newest  # of another database
            first = self._newest - REPLAYED if after is None or unknown else after
            first = max(0, first, self._newest - MAX_REPLAYED)
            rows: list[EventRow] = []
            while first < self._newest:
                page = await self.views.db.call(store.events_after, first, PAGE)
                rows += [row for row in page if row.id <= self._newest]
                if len(page) < PAGE:
                    break
                first = page[-1].id
            self.watchers.add(watcher)
            self._watched.set()
        missed = after is not None and (unknown or (rows[0].id if rows else after) > after + 1)
        live = self.views.snapshot()
        hello = text_of("hello", {"newest": self._newest, "missed": missed}, at_ms=live.at_ms)
        return [hello, *map(text_of_event, rows), _status_text(live)]

    def leave(self, watcher: Watcher) -> None:
        """Forget a watcher."""
        self.watchers.discard(watcher)
        if not self.watchers:
            self._watched.clear()

    async def run(self) -> None:
        """Tell what happens until cancelled."""
        status_in_s = 0.0
        while True:
            await self._watched.wait()
            try:
                await self._tell_events()
            except AresError as fault:  # the database is away: the next look may find it again
                log.warning("events_not_read", code=fault.code, why=fault.message)
            if status_in_s <= 0:
                self._tell_status()
                status_in_s = STATUS_S
            await self.clock.sleep(TAIL_S)
            status_in_s -= TAIL_S

    async def _tell_events(self) -> None:
        async with self._order:
            rows = await self.views.db.call(self.views.db.store.events_after, self._newest, PAGE)
            for row in rows:
                self._tell(text_of_event(row))
                self._newest = row.id

    def _tell_status(self) -> None:
        live = self.views.snapshot()
        if (text := _status_text(live)) != self._status:
            self._status = text
            self._tell(text)

    def _tell(self, text: str) -> None:
        for watcher in tuple(self.watchers):
            watcher.offer(text)


def _status_text(live: LiveSnapshot) -> str:
    """Return the present moment; the same text while nothing changes."""
    facts = {
        "state": live.state,
        "activity": live.activity,
        "failure": live.failure,
        "online": len(live.online),
        "throughput": round(live.tokens_per_s, 1),
        "deadline_ms": live.deadline_ms,
        "next_cycle_ms": live.next_cycle_ms,
        "bytes_sent": live.bytes_sent,
        "bytes_received": live.bytes_received,
    }
    return text_of("status", facts)
