"""What the coordinator does for peers that reach it over HTTPS only.

It looks into the DHT for them and stores what they may write there, hands their messages to the
engine as if they had come over P2P, serves blobs, and takes their contributions (`intake`). It
gives nobody anything that P2P would not. What many ask for at a time is looked up once.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager

from ares_coordinator.board import RecordBoard
from ares_coordinator.intake import Handover, Intake
from ares_p2p.clock import Clock
from ares_p2p.crypto.envelope import Envelope
from ares_p2p.errors import BlobUnavailable, WrongSigner
from ares_p2p.ids import Digest, PeerId
from ares_p2p.network.blob_serve import BlobServer, ServeLimits
from ares_p2p.network.blobs import Blobs
from ares_p2p.network.http_api import check_key
from ares_p2p.network.invite import NetworkRef
from ares_p2p.network.limits import RemoteLimits
from ares_p2p.network.record_keys import RecordKey, dht_id_of
from ares_p2p.network.record_rules import CheckedEnvelope, FoundValue, RawRecord, check_record
from ares_p2p.network.records_dht import RecordTransport
from ares_p2p.network.watching import News, Wish

FRESH_S = 0.3  # a peer asks again as often; a search of the DHT takes 7-50 ms
MAX_REMEMBERED = 512  # keys; at most 48 kB each, and a few dictionaries of half a megabyte
UPLOADS_PER_PEER, UPLOADS = 4, 64  # requests at a time, of 768 KiB each in memory

Submit = Callable[[Envelope, PeerId], Awaitable[Envelope]]


class RecordCache:
    """Looks keys up once, however many ask within a moment.

    Args:
        fresh_s: how long a moment is.
        monotonic: a clock in seconds.
    """

    def __init__(
        self,
        transport: RecordTransport,
        *,
        fresh_s: float = FRESH_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._fresh_s = fresh_s
        self._monotonic = monotonic
        self._known: OrderedDict[str, tuple[asyncio.Task[dict[str, FoundValue]], float]] = (
            OrderedDict()
        )

    async def get_many(self, keys: Sequence[str]) -> dict[str, FoundValue]:
        """Return what lies under each key, or did a moment ago.

        Raises: RpcTimeout, NodeDied.
        """
        now_s = self._monotonic()
        missing = [key for key in dict.fromkeys(keys) if not self._is_fresh(key, now_s)]
        if missing:
            search = asyncio.create_task(self._transport.get_many(missing, latest=True))
            for key in missing:
                self._known[key] = (search, now_s)
                self._known.move_to_end(key)
            while len(self._known) > max(MAX_REMEMBERED, len(keys)):
                self._known.popitem(last=False)
        tasks = {key: self._known[key][0] for key in keys}
        return {key: (await asyncio.shield(task))[key] for key, task in tasks.items()}

    def _is_fresh(self, key: str, now_s: float) -> bool:
        known = self._known.get(key)
        if known is None:
            return False
        search, at_s = known
        if not search.done():
            return True
        failed = search.cancelled() or search.exception() is not None
        return not failed and now_s - at_s < self._fresh_s

    def forget(self, key: str) -> None:
        """Look this key up again the next time."""
        self._known.pop(key, None)


class Gateway:
    """One per coordinator; what `api.swarm` calls.

    Args:
        submit: takes a signed message of a peer, and returns the acknowledgement.
        records: the DHT.
        board: where peers wait for the coordinator's records.
        blobs: what the coordinator serves.
    """

    def __init__(
        self,
        *,
        network: NetworkRef,
        submit: Submit,
        records: RecordTransport,
        board: RecordBoard,
        blobs: Blobs,
        intake: Intake,
        clock: Clock,
        fresh_s: float = FRESH_S,
    ) -> None:
        self.network = network
        self._submit = submit
        self._records = records
        self._cache = RecordCache(records, fresh_s=fresh_s)
        self._board = board
        self._blobs = blobs
        self._server = BlobServer(blobs.store, blobs.traffic, ServeLimits())
        self._intake = intake
        self._clock = clock
        self._uploads = RemoteLimits(
            requests_per_s=20.0, burst=40.0, streams_per_remote=UPLOADS_PER_PEER, streams=UPLOADS
        )

    def now_ms(self) -> int:
        """Return the coordinator's wall time."""
        return self._clock.now_ms()

    async def submit(self, envelope: Envelope, worker: PeerId) -> Envelope:
        """Return the acknowledgement of a worker's message.

        Raises: PeerFault: why it is refused. CoordinatorAway: not just now.
        """
        return await self._submit(envelope, worker)

    # --- records -------------------------------------------------------------------------------

    async def read_records(self, keys: Sequence[str]) -> dict[str, FoundValue]:
        """Return what lies in the DHT under each key.

        Raises: PayloadMalformed: a key under which nothing can lie. RpcTimeout, NodeDied.
        """
        for key in keys:
            check_key(key, network_id=self.network.network_id)
        return await self._cache.get_many(keys)

    async def watch(self, wishes: Sequence[Wish], wait_s: float, worker: PeerId) -> list[News]:
        """See `RecordBoard.watch`."""
        return await self._board.watch(wishes, wait_s, worker)

    async def store_record(
        self, key: str, subkey: str | None, value: bytes, expiration_s: float, *, worker: PeerId
    ) -> bool:
        """Store a value in the DHT for a worker: under its own subkey, leased by itself.

        Raises: WrongSigner: not its own. PeerFault: what every node would refuse. RpcTimeout.
        """
        check_key(key, network_id=self.network.network_id)
        if subkey != worker:
            raise WrongSigner(f"a peer writes its own subkey {worker}, not {str(subkey)[:60]!r}")
        raw = RawRecord(dht_id_of(key), subkey, value, expiration_s)
        checked = check_record(raw, network=self.network, now_s=self._clock.now_ms() / 1000)
        if not isinstance(checked, CheckedEnvelope):
            raise WrongSigner("only signed records of their own are stored for peers")
        stored = await self._records.store(RecordKey(key, worker), value, expiration_s)
        self._cache.forget(key)
        return stored

    # --- blobs ---------------------------------------------------------------------------------

    async def blob_size(self, blob_id: Digest) -> int:
        """Return the size of a blob that is served.

        Raises: BlobUnavailable: not here, or withheld; nobody can tell which.
        """
        store = self._blobs.store
        if await asyncio.to_thread(lambda: store.is_withheld(blob_id) or not store.has(blob_id)):
            raise BlobUnavailable("not held")
        return await asyncio.to_thread(store.size, blob_id)

    def chunk_list(self, remote: PeerId, blob_id: Digest) -> AsyncGenerator[bytes, None]:
        """Yield a blob's chunk list; raises as `BlobServer.chunk_list`."""
        return self._server.chunk_list(remote, blob_id)

    def chunks(
        self, remote: PeerId, blob_id: Digest, *, first: int, count: int
    ) -> AsyncGenerator[bytes, None]:
        """Yield some of a blob's chunks; raises as `BlobServer.chunks`."""
        return self._server.chunks(remote, blob_id, first=first, count=count)

    # --- contributions -------------------------------------------------------------------------

    def uploading(self, worker: PeerId) -> AbstractContextManager[None]:
        """Bound what one worker, and all together, send at a time.

        Raises: RateLimited.
        """
        self._uploads.check_rate(worker)
        return self._uploads.stream(worker)

    async def begin_upload(self, worker: PeerId, blob_id: Digest, encoded: bytes) -> Handover:
        """See `Intake.begin`."""
        return await self._intake.begin(worker, blob_id, encoded)

    async def add_chunks(
        self, worker: PeerId, blob_id: Digest, first: int, data: bytes
    ) -> Handover:
        """See `Intake.add`."""
        return await self._intake.add(worker, blob_id, first, data)
