"""Records over any dictionary of keys: publishing that is checked, reading that is verified.

Everything found is verified here again, in the process that uses it (the same bytes once), and
compared with the highest (cycle, seq) seen so far. What this node published it stores again every third of its
lifetime, because the DHT itself never does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from typing import Protocol, TypeVar, cast

from ares_p2p.clock import Clock
from ares_p2p.crypto.envelope import Envelope
from ares_p2p.crypto.keys import Identity
from ares_p2p.domain import Payload
from ares_p2p.errors import NetworkFault, PeerFault, RecordUnavailable, StaleSequence
from ares_p2p.ids import Digest, PeerId, sha256
from ares_p2p.network.invite import NetworkRef
from ares_p2p.network.record_keys import (
    CHUNK_LIFETIME_S,
    RecordKey,
    dht_id_of,
    key_of_chunk,
    key_of_kind,
    key_of_payload,
    record_kind,
)
from ares_p2p.network.record_rules import (
    CheckedChunk,
    CheckedEnvelope,
    FoundValue,
    PlainValue,
    RawRecord,
    check_record,
    encode_chunk,
    encode_stored_envelope,
)
from ares_p2p.network.records import ReadChunk, Refused, Verified
from ares_p2p.network.republish import Keeper
from ares_p2p.wire.codec import class_of, open_envelope

P = TypeVar("P", bound=Payload)
MAX_REFUSED = 1000  # remembered with their reason; the counters go on
MAX_SEEN = 8192  # newest record per key and subkey: about 10 MB
MAX_CHECKED = 1024  # values that passed, by digest: at most 50 MB, a few in practice
PUBLISH_ATTEMPTS = 2
CHUNKS_PER_SEARCH = 16  # 0.8 MB in one answer of the DHT process
PARALLEL_SEARCHES = 4


class RecordTransport(Protocol):
    """A dictionary of keys somewhere: hivemind's DHT, or one in memory."""

    async def store(self, key: RecordKey, value: bytes, expiration_s: float) -> bool:
        """Store a value; False when nobody took it."""
        ...

    async def get_many(self, keys: Sequence[str], *, latest: bool) -> dict[str, FoundValue]:
        """Return what lies under each key; `latest` asks everybody near it."""
        ...


class DhtRecords:
    """`Records` over a transport."""

    def __init__(
        self,
        transport: RecordTransport,
        *,
        identity: Identity,
        network: NetworkRef,
        clock: Clock,
    ) -> None:
        self.refused: deque[Refused] = deque(maxlen=MAX_REFUSED)
        self.refused_counts: Counter[str] = Counter()
        self._transport = transport
        self._identity = identity
        self._network = network
        self._clock = clock
        self._seen: OrderedDict[RecordKey, Verified[Payload]] = OrderedDict()
        self._checked: OrderedDict[Digest, CheckedEnvelope] = OrderedDict()
        self._expirations: OrderedDict[RecordKey, float] = OrderedDict()
        self._keeper = Keeper()

    def _now_s(self) -> float:
        return self._clock.now_ms() / 1000

    # --- publishing ----------------------------------------------------------------------------

    async def publish(self, envelope: Envelope, *, keep: bool = True) -> None:
        """See `Records.publish`."""
        cls = class_of(envelope)
        signer = None if record_kind(cls).by_peers else self._network.coordinator
        payload = open_envelope(envelope, cls, signer=signer, network_id=self._network.network_id)
        key = key_of_payload(payload, signer=envelope.signer)
        for attempt in range(PUBLISH_ATTEMPTS):
            await self._store_envelope(envelope, key)
            if await self._has_landed(envelope, key):
                break
            if attempt + 1 == PUBLISH_ATTEMPTS:
                raise RecordUnavailable(f"{key.key} was stored, but nobody returns it")
        if keep:
            lifetime_s = record_kind(cls).lifetime_s
            self._keeper.keep_record(
                envelope, payload, key, now_s=self._now_s(), lifetime_s=lifetime_s
            )

    async def _store_envelope(self, envelope: Envelope, key: RecordKey) -> None:
        """Lease and store; each lease ends later than the one before, or hivemind keeps that."""
        now_s = self._now_s()
        lifetime_s = record_kind(class_of(envelope)).lifetime_s
        expiration_s = max(now_s + lifetime_s, self._expirations.get(key, 0.0) + 0.001)
        value = encode_stored_envelope(
            envelope, key, publisher=self._identity, expiration_s=expiration_s
        )
        raw = RawRecord(dht_id_of(key.key), key.subkey, value, expiration_s)
        check_record(raw, network=self._network, now_s=now_s)  # what every node would say
        await self._transport.store(key, value, expiration_s)
        self._expirations[key] = expiration_s
        self._expirations.move_to_end(key)
        if len(self._expirations) > MAX_SEEN:
            self._expirations.popitem(last=False)

    async def _has_landed(self, envelope: Envelope, key: RecordKey) -> bool:
        """Whether the DHT now returns this very envelope.

        Raises: StaleSequence: it returns a newer one.
        """
        found = (await self._transport.get_many([key.key], latest=True)).get(key.key)
        value = self._value_at(found, key.subkey)
        if value is None:
            return False
        verified = self._verify(key.key, key.subkey, value)
        if verified is None:
            return False
        if verified.envelope.payload_sha256 == envelope.payload_sha256:
            return True
        header, ours = verified.payload.header, class_of(envelope)
        mine = open_envelope(envelope, ours).header
        if (header.cycle, header.seq) >= (mine.cycle, mine.seq):
            raise StaleSequence(
                f"seq {mine.seq} of cycle {mine.cycle} is not newer than the DHT's "
                f"seq {header.seq} of cycle {header.cycle} under {key.key}"
            )
        return False

    # --- reading -------------------------------------------------------------------------------

    @staticmethod
    def _value_at(found: FoundValue, subkey: PeerId | None) -> PlainValue | None:
        if isinstance(found, dict):
            return found.get(subkey) if subkey is not None else None
        return found if subkey is None else None

    def _refuse(self, peer: str, error: PeerFault) -> None:
        self.refused.append(Refused(peer, error.code, error.message))
        self.refused_counts[error.code] += 1

    def _check(self, raw: RawRecord) -> CheckedEnvelope | None:
        """Return what a value holds, None for a chunk; the same value is checked once.

        Raises: what `check_record` raises.
        """
        place = f"{raw.subkey}\0{raw.expiration_s!r}\0".encode()
        digest = sha256(raw.dht_id, place, raw.value)
        known = self._checked.get(digest)
        if known is not None:
            self._checked.move_to_end(digest)
            return known
        checked = check_record(raw, network=self._network, now_s=self._now_s())
        if not isinstance(checked, CheckedEnvelope):
            return None
        self._checked[digest] = checked
        if len(self._checked) > MAX_CHECKED:
            self._checked.popitem(last=False)
        return checked

    def believe(self, key: str, value: PlainValue) -> Verified[Payload] | None:
        """See `Records.believe`."""
        return self._verify(key, None, value)

    def _verify(self, key: str, subkey: str | None, value: PlainValue) -> Verified[Payload] | None:
        """Return the newest record known for this place, None when what was found is refused."""
        raw = RawRecord(dht_id_of(key), subkey, value[0], value[1])
        try:
            checked = self._check(raw)
        except PeerFault as error:
            self._refuse(subkey or self._network.coordinator, error)
            return None
        if checked is None:
            return None
        header = checked.payload.header
        seen = self._seen.get(checked.key)
        if seen is not None:
            newest = (seen.payload.header.cycle, seen.payload.header.seq)
            if (header.cycle, header.seq) < newest:
                stale = StaleSequence(f"seq {header.seq} of cycle {header.cycle} after {newest}")
                self._refuse(checked.envelope.signer, stale)
                return seen
        verified = Verified(checked.payload, checked.envelope)
        self._seen[checked.key] = verified
        self._seen.move_to_end(checked.key)
        if len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)
        return verified

    async def fetch(
        self,
        cls: type[P],
        *,
        cycle: int = 0,
        round: int = 0,  # noqa: A002 (the protocol's word)
    ) -> Verified[P] | None:
        """See `Records.fetch`."""
        kind = cast("type[Payload]", cls)
        key = key_of_kind(kind, network_id=self._network.network_id, cycle=cycle, round=round)
        found = (await self._transport.get_many([key], latest=True)).get(key)
        value = self._value_at(found, None)
        if value is None:
            return None
        return cast("Verified[P] | None", self._verify(key, None, value))

    async def fetch_peers(
        self,
        cls: type[P],
        *,
        cycle: int = 0,
        round: int = 0,  # noqa: A002 (the protocol's word)
    ) -> list[Verified[P]]:
        """See `Records.fetch_peers`."""
        kind, network_id = cast("type[Payload]", cls), self._network.network_id
        keys = [
            key_of_kind(kind, network_id=network_id, cycle=cycle, round=round, bucket=bucket)
            for bucket in range(record_kind(kind).buckets)
        ]
        found = await self._transport.get_many(keys, latest=True)
        records: list[Verified[P]] = []
        for key, values in found.items():
            if isinstance(values, dict):
                for subkey, value in values.items():
                    verified = self._verify(key, subkey, value)
                    if verified is not None:
                        records.append(cast("Verified[P]", verified))
        return sorted(records, key=lambda record: record.signer)

    # --- chunks --------------------------------------------------------------------------------

    async def publish_chunk(self, data: bytes, *, keep: bool = True) -> Digest:
        """See `Records.publish_chunk`."""
        digest = sha256(data)
        await self._store_chunk(digest, data)
        if keep:
            self.hold_chunks([digest], {digest: data}.get)
        return digest

    async def _store_chunk(self, digest: Digest, data: bytes) -> None:
        key = RecordKey(key_of_chunk(digest, network_id=self._network.network_id))
        expiration_s = self._now_s() + CHUNK_LIFETIME_S
        if await self._transport.store(key, encode_chunk(data), expiration_s):
            return
        if await self._chunk_expiration(digest) is None:  # refused, and not for being there
            raise RecordUnavailable(f"chunk {digest.hex()[:12]} was taken by nobody")

    async def _chunk_expiration(self, digest: Digest) -> float | None:
        key = key_of_chunk(digest, network_id=self._network.network_id)
        found = (await self._transport.get_many([key], latest=True)).get(key)
        value = self._value_at(found, None)
        return None if value is None else value[1]

    async def fetch_chunk(self, digest: Digest) -> bytes:
        """See `Records.fetch_chunk`."""
        return (await self.fetch_chunks([digest]))[0]

    async def fetch_chunks(self, digests: Sequence[Digest]) -> list[bytes]:
        """See `Records.fetch_chunks`."""
        unique = list(dict.fromkeys(digests))
        groups = [
            unique[i : i + CHUNKS_PER_SEARCH] for i in range(0, len(unique), CHUNKS_PER_SEARCH)
        ]
        gate = asyncio.Semaphore(PARALLEL_SEARCHES)

        async def fetch_group(group: list[Digest]) -> dict[Digest, bytes]:
            async with gate:
                return await self._fetch_group(group)

        chunks: dict[Digest, bytes] = {}
        for part in await asyncio.gather(*(fetch_group(group) for group in groups)):
            chunks.update(part)
        return [chunks[digest] for digest in digests]

    async def _fetch_group(self, group: list[Digest]) -> dict[Digest, bytes]:
        network_id = self._network.network_id
        keys = {key_of_chunk(digest, network_id=network_id): digest for digest in group}
        found = await self._transport.get_many(list(keys), latest=False)
        chunks: dict[Digest, bytes] = {}
        for key, digest in keys.items():
            value = self._value_at(found.get(key), None)
            if value is None:
                raise RecordUnavailable(f"chunk {digest.hex()[:12]} is not in the DHT")
            raw = RawRecord(dht_id_of(key), None, value[0], value[1])
            checked = check_record(raw, network=self._network, now_s=self._now_s())
            if not isinstance(checked, CheckedChunk) or checked.sha256 != digest:
                raise RecordUnavailable(f"chunk {digest.hex()[:12]} is not in the DHT")
            chunks[digest] = checked.data
        return chunks

    # --- republication -------------------------------------------------------------------------

    def hold_chunks(self, digests: Sequence[Digest], read: ReadChunk) -> None:
        """See `Records.hold_chunks`."""
        for digest in digests:
            self._keeper.keep_chunk(digest, read, now_s=self._now_s(), lifetime_s=CHUNK_LIFETIME_S)

    async def republish_due(self) -> int:
        """See `Records.republish_due`."""
        stored = 0
        for kept in self._keeper.due_records(self._now_s()):
            with contextlib.suppress(NetworkFault):  # it stays due, and is tried again
                await self._store_envelope(kept.envelope, kept.key)
                self._keeper.mark_record(kept, now_s=self._now_s())
                stored += 1
        for held in self._keeper.due_chunks(self._now_s()):
            with contextlib.suppress(NetworkFault):
                expiration_s = await self._chunk_expiration(held.digest)
                if expiration_s is None or expiration_s < self._now_s() + CHUNK_LIFETIME_S / 2:
                    data = await asyncio.to_thread(held.read, held.digest)
                    if data is None:
                        self._keeper.drop_chunk(held.digest)
                        continue
                    await self._store_chunk(held.digest, data)
                    stored += 1
                self._keeper.mark_chunk(held, now_s=self._now_s())
        return stored
