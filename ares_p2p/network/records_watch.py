"""Records with one call that waits at the coordinator, instead of asking the DHT again and again.

`fetch` of a record that only the coordinator signs is answered from what the coordinator said: at
the first time by a call of its own, from then on by the one call that waits for all keys that
were asked for lately (`keep`, a task of the owner). `rest` ends as soon as there is news. What
comes is verified like a value of the DHT, and an older record never takes a newer one's place.

The coordinator's word is not the only one. When it does not answer, the records below are asked as
if nothing of this were here; while it answers they are asked every two minutes for a key in use,
so that what lies in public, and was not told here, is found. What keeps the coordinator honest
(the head of the ledger) is read there only, and so is everything that peers write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import structlog

from ares_p2p.clock import Clock, sleep_or
from ares_p2p.crypto.envelope import Envelope
from ares_p2p.domain import LedgerHead, Payload
from ares_p2p.errors import NetworkFault, NodeDied, PeerFault
from ares_p2p.ids import Digest
from ares_p2p.network.record_keys import key_of_kind, record_kind
from ares_p2p.network.record_rules import PlainValue
from ares_p2p.network.records import ReadChunk, Records, Verified
from ares_p2p.network.watching import MAX_WISHES, NOTHING, WAIT_S, News, Wish

P = TypeVar("P", bound=Payload)

LOOK_EVERY_MS = 120_000  # in the records below, for a key in use: 4 kB a search
KEEP_MS = 30_000  # a key that nobody asked for so long is not waited for any more
MAX_PLACES = 256  # keys; more than rounds that are settled at a time
MAX_LOOKS = 25  # for a record that the coordinator only named; then as for every other key
LEAST_PAUSE_S = 0.05  # between two calls: what is said cannot make this spin
FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 5.0  # after a call that failed

AskNews = Callable[[Sequence[Wish], float], Awaitable[Sequence[News]]]
log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Place:
    """One key: what was asked, and what is known.

    Attributes:
        newest: the record, None while there is none.
        said_sha256: the payload that the coordinator named last.
        is_told: whether the coordinator was asked, and nothing was missed since.
        look_ms: when the records below are asked next.
        looks_left: how often they are still asked for what the coordinator named.
    """

    cls: type[Payload]
    cycle: int
    round: int
    newest: Verified[Payload] | None = None
    said_sha256: Digest = NOTHING
    is_told: bool = False
    asked_ms: int = 0
    look_ms: int = 0
    looks_left: int = 0

    @property
    def is_elsewhere(self) -> bool:
        """Whether the coordinator named a record that is not here."""
        return self.looks_left > 0

    def take(self, found: Verified[Payload]) -> None:
        """Hold a record unless a newer one is held."""
        if self.newest is None or _age(found) >= _age(self.newest):
            is_new = self.newest is None or _age(found) > _age(self.newest)
            self.newest = found
            if is_new or found.envelope.payload_sha256 == self.said_sha256:
                self.looks_left = 0


def _age(found: Verified[Payload]) -> tuple[int, int]:
    return found.payload.header.cycle, found.payload.header.seq


class WatchedRecords:
    """`Records` over others, with news from the coordinator.

    Args:
        records: where everything lies.
        ask: the coordinator's `Control.watch`: wishes, and how long to wait.
    """

    def __init__(self, records: Records, ask: AskNews, *, network_id: str, clock: Clock) -> None:
        self.refused, self.refused_counts = records.refused, records.refused_counts
        self._records = records
        self._ask = ask
        self._network_id = network_id
        self._clock = clock
        self._places: dict[str, _Place] = {}
        self._more = asyncio.Event()  # a key to wait for that the running call does not name
        self._news = asyncio.Event()  # something changed; then it is another event
        self._is_kept = False
        self._quiet_until_ms = 0  # the coordinator does not answer: not asked before

    # --- reading -------------------------------------------------------------------------------

    async def fetch(
        self,
        cls: type[P],
        *,
        cycle: int = 0,
        round: int = 0,  # noqa: A002 (the protocol's word)
    ) -> Verified[P] | None:
        """See `Records.fetch`."""
        kind = cast("type[Payload]", cls)
        if kind is LedgerHead or record_kind(kind).by_peers:
            return await self._records.fetch(cls, cycle=cycle, round=round)
        key = key_of_kind(kind, network_id=self._network_id, cycle=cycle, round=round)
        place = self._place(key, kind, cycle, round)
        if not await self._is_told(key, place):
            place.look_ms = 0
        await self._look(place)
        return cast("Verified[P] | None", place.newest)

    def _place(self, key: str, cls: type[Payload], cycle: int, round_number: int) -> _Place:
        place, now_ms = self._places.get(key), self._clock.now_ms()
        if place is None:
            if len(self._places) >= MAX_PLACES:
                del self._places[min(self._places, key=lambda one: self._places[one].asked_ms)]
            place = self._places[key] = _Place(cls, cycle, round_number)
            place.look_ms = now_ms + LOOK_EVERY_MS
        elif now_ms - place.asked_ms > KEEP_MS:  # the call that waits named it no more
            place.is_told = False
        place.asked_ms = now_ms
        return place

    async def _is_told(self, key: str, place: _Place) -> bool:
        """Whether what is known of a key is what the coordinator says now.

        Raises: NodeDied.
        """
        if place.is_told and self._is_kept:
            return True
        if self._clock.now_ms() < self._quiet_until_ms:
            return False
        try:
            await self._hear([Wish(key, place.said_sha256)], 0.0)
        except NodeDied:
            raise
        except (NetworkFault, PeerFault) as fault:
            self._lose(fault)
            return False
        self._more.set()
        return True

    async def _look(self, place: _Place) -> None:
        """Ask the records below when the coordinator's word is not enough.

        Raises: NodeDied. RpcTimeout, CoordinatorAway: nor do they answer, and it matters.
        """
        now_ms = self._clock.now_ms()
        if not place.is_elsewhere and now_ms < place.look_ms:
            return
        is_needed = place.is_elsewhere or place.look_ms == 0
        place.look_ms = now_ms + LOOK_EVERY_MS
        place.looks_left = max(0, place.looks_left - 1)
        try:
            found = await self._records.fetch(place.cls, cycle=place.cycle, round=place.round)
        except NodeDied:
            raise
        except NetworkFault:
            if is_needed:
                raise
            return
        if found is not None:
            place.take(found)

    # --- the coordinator's news ----------------------------------------------------------------

    async def keep(self) -> None:
        """Wait at the coordinator for the keys in use, again and again, until cancelled."""
        pause_s = 0.0
        self._is_kept = True
        try:
            while True:
                await self._clock.sleep(max(LEAST_PAUSE_S, pause_s))
                self._more.clear()
                wishes = self._wishes()
                if not wishes:
                    await self._more.wait()
                    continue
                try:
                    await self._hear_or_begin_again(wishes)
                    pause_s = 0.0
                except NodeDied:
                    raise
                except (NetworkFault, PeerFault) as fault:
                    pause_s = min(LONGEST_RETRY_S, max(FIRST_RETRY_S, 2 * pause_s))
                    self._lose(fault)
        except NodeDied as death:  # the session meets it by itself, and there is no other way
            log.warning("news_ended", why=death.message)
        finally:
            self._is_kept = False

    def _wishes(self) -> list[Wish]:
        """Return what to wait for: the keys in use, the ones asked for last first."""
        oldest_ms = self._clock.now_ms() - KEEP_MS
        in_use = [(key, place) for key, place in self._places.items() if place.asked_ms > oldest_ms]
        in_use.sort(key=lambda item: item[1].asked_ms, reverse=True)
        for _, place in in_use[MAX_WISHES:]:
            place.is_told = False
        return [Wish(key, place.said_sha256) for key, place in in_use[:MAX_WISHES]]

    async def _hear_or_begin_again(self, wishes: Sequence[Wish]) -> None:
        """Wait for news of some keys, or until another key is to be waited for.

        Raises: what `ask` raises.
        """
        hearing = asyncio.create_task(self._hear(wishes, WAIT_S))
        more = asyncio.create_task(self._more.wait())
        try:
            await asyncio.wait({hearing, more}, return_when=asyncio.FIRST_COMPLETED)
            if hearing.done():
                hearing.result()
        finally:
            for task in (hearing, more):
                task.cancel()
            await asyncio.gather(hearing, more, return_exceptions=True)

    async def _hear(self, wishes: Sequence[Wish], wait_s: float) -> None:
        """Ask once, and take what is new.

        Raises: what `ask` raises.
        """
        news = await self._ask(wishes, wait_s)
        for wish in wishes:
            if (place := self._places.get(wish.key)) is not None:
                place.is_told = True
        for item in news:
            if (place := self._places.get(item.key)) is not None:
                self._take(place, item)
        if news:
            self._tell()

    def _take(self, place: _Place, item: News) -> None:
        place.said_sha256 = item.payload_sha256  # believed or not: it is not said again
        place.looks_left = MAX_LOOKS
        if item.value and item.expiration_s >= self._clock.now_ms() / 1000:
            found = self._records.believe(item.key, (item.value, item.expiration_s))
            if found is not None:
                place.take(found)

    def _lose(self, fault: NetworkFault | PeerFault) -> None:
        """Go without the coordinator's news for a moment: nothing that it said counts as new."""
        if any(place.is_told for place in self._places.values()):
            log.info("news_lost", code=fault.code, why=fault.message)
        for place in self._places.values():
            place.is_told = False
        self._quiet_until_ms = self._clock.now_ms() + int(1000 * LONGEST_RETRY_S)
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def rest(self, seconds: float) -> None:
        """Return after a time, or as soon as there is news."""
        await sleep_or(self._clock, seconds, self._news)

    # --- everything else is as it was ----------------------------------------------------------

    async def publish(self, envelope: Envelope, *, keep: bool = True) -> None:
        """See `Records.publish`."""
        await self._records.publish(envelope, keep=keep)

    def believe(self, key: str, value: PlainValue) -> Verified[Payload] | None:
        """See `Records.believe`."""
        return self._records.believe(key, value)

    async def fetch_peers(
        self,
        cls: type[P],
        *,
        cycle: int = 0,
        round: int = 0,  # noqa: A002 (the protocol's word)
    ) -> list[Verified[P]]:
        """See `Records.fetch_peers`."""
        return await self._records.fetch_peers(cls, cycle=cycle, round=round)

    async def publish_chunk(self, data: bytes, *, keep: bool = True) -> Digest:
        """See `Records.publish_chunk`."""
        return await self._records.publish_chunk(data, keep=keep)

    async def fetch_chunk(self, digest: Digest) -> bytes:
        """See `Records.fetch_chunk`."""
        return await self._records.fetch_chunk(digest)

    async def fetch_chunks(self, digests: Sequence[Digest]) -> list[bytes]:
        """See `Records.fetch_chunks`."""
        return await self._records.fetch_chunks(digests)

    def hold_chunks(self, digests: Sequence[Digest], read: ReadChunk) -> None:
        """See `Records.hold_chunks`."""
        self._records.hold_chunks(digests, read)

    async def republish_due(self) -> int:
        """See `Records.republish_due`."""
        return await self._records.republish_due()
