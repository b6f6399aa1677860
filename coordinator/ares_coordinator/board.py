"""The coordinator's newest records, for peers that wait here for the next one.

What the coordinator signs is posted here and wakes whoever waits for it: one call waits for a
peer's keys, without asking again and again (an asyncio future, and a timer). What was signed
before this start is looked up in the DHT once per key (of rounds that were opened since there is
nothing to look up); nobody else signs, so what is posted here and what was found then is all that
there can be. The DHT stays the place where everything lies:
large records are only named here.

Bounds: calls a second and one wait at a time for a peer (a newer one ends the older: it was
abandoned), waits in all, keys of one call, and the keys that are remembered.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import structlog

from ares_p2p.clock import Clock
from ares_p2p.crypto.envelope import Envelope
from ares_p2p.crypto.keys import Identity
from ares_p2p.domain import RoundPlan
from ares_p2p.errors import CoordinatorAway, PayloadMalformed, PeerFault, RateLimited, RpcTimeout
from ares_p2p.ids import Digest, PeerId
from ares_p2p.network.http_api import check_key
from ares_p2p.network.invite import NetworkRef
from ares_p2p.network.limits import RemoteLimits
from ares_p2p.network.record_keys import (
    RecordKey,
    dht_id_of,
    is_signed_by_coordinator,
    key_of_payload,
    record_kind,
)
from ares_p2p.network.record_rules import (
    CheckedEnvelope,
    FoundValue,
    RawRecord,
    check_record,
    encode_stored_envelope,
)
from ares_p2p.network.records_dht import RecordTransport
from ares_p2p.network.watching import (
    INLINE_BYTES,
    MAX_WAIT_S,
    NOTHING,
    News,
    Wish,
    check_wishes,
)
from ares_p2p.wire.codec import class_of, decode_payload

MAX_REMEMBERED = 4096  # keys, the oldest forgotten first: at most 16 MB
MAX_WAITING = 4096  # calls at a time, of about 2 kB each
CALLS_PER_S, BURST = 5.0, 100.0  # of one peer: it renews its wait every 20 s, and adds keys
LOOK_AGAIN_S = 60.0  # for what was not in the DHT

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Place:
    """What is known of a key.

    Attributes:
        envelope: of a small record that was posted; its lease is made when it is asked for.
        until_s: a found value's lease, or when to look again for what was not there.
    """

    payload_sha256: Digest = NOTHING
    envelope: Envelope | None = None
    value: bytes = b""
    expiration_s: float = 0.0
    until_s: float = float("inf")


class RecordBoard:
    """One per coordinator; its `watch` answers over P2P and over HTTPS.

    Args:
        transport: the DHT, for what was signed before this start.
        monotonic: a clock in seconds, of the limits.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        network: NetworkRef,
        transport: RecordTransport,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._identity = identity
        self._network = network
        self._transport = transport
        self._clock = clock
        self._places: OrderedDict[str, _Place] = OrderedDict()
        self._plans: tuple[tuple[int, int], tuple[int, int]] | None = None  # first, newest posted
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._waits: dict[PeerId, asyncio.Future[None]] = {}
        self._limits = RemoteLimits(
            requests_per_s=CALLS_PER_S,
            burst=BURST,
            streams_per_remote=1,
            streams=1,
            monotonic=monotonic,
        )

    @property
    def waiting(self) -> int:
        """How many calls wait just now."""
        return len(self._waits)

    # --- what the coordinator says -------------------------------------------------------------

    def post(self, envelope: Envelope) -> None:
        """Show a record of the coordinator's from now on, and wake who waits for it."""
        payload = decode_payload(envelope.payload_type, envelope.payload, class_of(envelope))
        if isinstance(payload, RoundPlan):
            place = (payload.header.cycle, payload.header.round)
            first, newest = self._plans or (place, place)
            self._plans = (first, max(newest, place))
        key = key_of_payload(payload, signer=envelope.signer).key
        self._remember(key, _Place(envelope.payload_sha256, envelope))
        for woken in self._waiting.get(key, ()):
            if not woken.done():
                woken.set_result(None)

    def forget(self, envelope: Envelope) -> None:
        """Do not show a record any more: it turned out that it is not the newest."""
        payload = decode_payload(envelope.payload_type, envelope.payload, class_of(envelope))
        self._places.pop(key_of_payload(payload, signer=envelope.signer).key, None)

    def _remember(self, key: str, place: _Place) -> None:
        self._places[key] = place
        self._places.move_to_end(key)
        if len(self._places) > MAX_REMEMBERED:
            self._places.popitem(last=False)

    # --- what peers ask ------------------------------------------------------------------------

    async def watch(self, wishes: Sequence[Wish], wait_s: float, remote: PeerId) -> list[News]:
        """Return what differs from what a peer has: now, or within a time as soon as there is.

        Raises: PayloadMalformed: no question, or keys of something else. RateLimited: too many
            calls, of this peer or waiting. CoordinatorAway: the DHT does not answer.
        """
        self._limits.check_rate(remote)
        check_wishes(wishes)
        for wish in wishes:
            check_key(wish.key, network_id=self._network.network_id)
            if not is_signed_by_coordinator(wish.key):
                raise PayloadMalformed(f"{wish.key[:80]} is not the coordinator's to answer")
        await self._look_up([wish.key for wish in wishes])
        news = self._news(wishes)
        if news or wait_s <= 0:
            return news
        with self._wait(wishes, remote) as woken:
            timer = asyncio.create_task(self._clock.sleep(min(wait_s, MAX_WAIT_S)))
            try:
                await asyncio.wait({woken, timer}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                timer.cancel()
        return self._news(wishes)

    @contextlib.contextmanager
    def _wait(self, wishes: Sequence[Wish], remote: PeerId) -> Iterator[asyncio.Future[None]]:
        """Be woken by every post under the keys.

        Raises: RateLimited: too many wait.
        """
        older = self._waits.pop(remote, None)
        if older is not None and not older.done():
            older.set_result(None)
        if len(self._waits) >= MAX_WAITING:
            raise RateLimited(f"more than {MAX_WAITING} calls wait here")
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waits[remote] = woken
        keys = {wish.key for wish in wishes}
        for key in keys:
            self._waiting.setdefault(key, set()).add(woken)
        try:
            yield woken
        finally:
            if self._waits.get(remote) is woken:
                del self._waits[remote]
            for key in keys:
                self._waiting[key].discard(woken)
                if not self._waiting[key]:
                    del self._waiting[key]

    def _news(self, wishes: Sequence[Wish]) -> list[News]:
        news = []
        for wish in wishes:
            place = self._places.get(wish.key)
            if place is not None and place.payload_sha256 not in (NOTHING, wish.known_sha256):
                self._lease(wish.key, place)
                news.append(News(wish.key, place.payload_sha256, place.value, place.expiration_s))
        return news

    def _lease(self, key: str, place: _Place) -> None:
        """Lease a posted record for whoever asks, when its lease is old."""
        if place.envelope is None:
            return
        lifetime_s = record_kind(class_of(place.envelope)).lifetime_s
        if place.expiration_s - self._now_s() > lifetime_s / 2:
            return
        place.expiration_s = self._now_s() + lifetime_s
        place.value = encode_stored_envelope(
            place.envelope,
            RecordKey(key),
            publisher=self._identity,
            expiration_s=place.expiration_s,
        )
        if len(place.value) > INLINE_BYTES:
            place.envelope, place.value, place.expiration_s = None, b"", 0.0

    # --- what was signed before this start -----------------------------------------------------

    async def _look_up(self, keys: Sequence[str]) -> None:
        """Look in the DHT for keys of which nothing is known.

        Raises: CoordinatorAway.
        """
        now_s = self._now_s()
        unknown = [
            key
            for key in dict.fromkeys(keys)
            if ((place := self._places.get(key)) is None or place.until_s < now_s)
            and not self._is_ours_alone(key)
        ]
        if not unknown:
            return
        before = {key: self._places.get(key) for key in unknown}
        try:
            found = await self._transport.get_many(unknown, latest=True)
        except RpcTimeout as error:
            raise CoordinatorAway(f"the DHT does not answer the coordinator: {error}") from error
        for key in unknown:
            if self._places.get(key) is before[key]:  # else it was posted meanwhile
                self._remember(key, self._found(key, found.get(key)))

    def _is_ours_alone(self, key: str) -> bool:
        """Whether all records under a key are of after this start: its round was opened since."""
        *_, cycle, number = key.split("/")
        if self._plans is None or not (cycle.isdigit() and number.isdigit()):
            return False
        first, newest = self._plans
        return first < (int(cycle), int(number)) <= newest

    def _found(self, key: str, found: FoundValue) -> _Place:
        nothing = _Place(until_s=self._now_s() + LOOK_AGAIN_S)
        if not isinstance(found, tuple):
            return nothing
        value, expiration_s = found
        raw = RawRecord(dht_id_of(key), None, value, expiration_s)
        try:
            checked = check_record(raw, network=self._network, now_s=self._now_s())
        except PeerFault as fault:
            log.warning("record_refused", key=key, code=fault.code, reason=fault.message)
            return nothing
        if not isinstance(checked, CheckedEnvelope):
            return nothing
        digest = checked.envelope.payload_sha256
        shown = value if len(value) <= INLINE_BYTES else b""
        return _Place(digest, None, shown, expiration_s, until_s=expiration_s)

    def _now_s(self) -> float:
        return self._clock.now_ms() / 1000
