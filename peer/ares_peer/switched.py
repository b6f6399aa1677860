"""Records, blobs and messages by whichever way works: what a session gets.

Nothing else knows that there is more than one way. A peer that nobody can reach hands what others
want of it to the coordinator: after its commit, when it changes over to HTTPS, and when nobody has
come for it a while after the close.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TypeVar

import structlog

from ares_p2p.crypto.envelope import Envelope
from ares_p2p.domain import Commit, Payload
from ares_p2p.ids import Digest, PeerId
from ares_p2p.network.blobs import Progress
from ares_p2p.network.control import SUBMIT_TIMEOUT_S, SubmitHandler
from ares_p2p.network.record_rules import PlainValue
from ares_p2p.network.records import ReadChunk, Verified
from ares_p2p.network.watching import News, WatchHandler, Wish
from ares_p2p.wire.codec import class_of, decode_payload
from ares_peer.switching import Ways

P = TypeVar("P", bound=Payload)

ALONE_S = 5.0  # after the close; a blob that nobody fetched by then is handed in over HTTPS
KEPT_OFFERS = 2  # own contributions that a change of the way hands over

log = structlog.get_logger(__name__)


class SwitchingRecords:
    """`Records` by the way of the moment."""

    def __init__(self, ways: Ways) -> None:
        self._ways = ways
        records = ways.current.records
        self.refused, self.refused_counts = records.refused, records.refused_counts
        for services in (ways.any_p2p, ways.http):
            if services is not None:  # one list of what was not believed, whoever brought it
                services.records.refused = self.refused
                services.records.refused_counts = self.refused_counts

    async def publish(self, envelope: Envelope, *, keep: bool = True) -> None:
        """See `Records.publish`."""
        await self._ways.call(lambda way: way.records.publish(envelope, keep=keep))

    async def fetch(
        self,
        cls: type[P],
        *,
        cycle: int = 0,
        round: int = 0,  # noqa: A002 (the protocol's word)
    ) -> Verified[P] | None:
        """See `Records.fetch`."""
        return await self._ways.call(lambda way: way.records.fetch(cls, cycle=cycle, round=round))

    def believe(self, key: str, value: PlainValue) -> Verified[Payload] | None:
        """See `Records.believe`."""
        return self._ways.current.records.believe(key, value)

    async def fetch_peers(
        self,
        cls: type[P],
        *,
        cycle: int = 0,
        round: int = 0,  # noqa: A002 (the protocol's word)
    ) -> list[Verified[P]]:
        """See `Records.fetch_peers`."""
        return await self._ways.call(
            lambda way: way.records.fetch_peers(cls, cycle=cycle, round=round)
        )

    async def publish_chunk(self, data: bytes, *, keep: bool = True) -> Digest:
        """See `Records.publish_chunk`."""
        return await self._ways.call(lambda way: way.records.publish_chunk(data, keep=keep))

    async def fetch_chunk(self, digest: Digest) -> bytes:
        """See `Records.fetch_chunk`."""
        return await self._ways.call(lambda way: way.records.fetch_chunk(digest))

    async def fetch_chunks(self, digests: Sequence[Digest]) -> list[bytes]:
        """See `Records.fetch_chunks`."""
        return await self._ways.call(lambda way: way.records.fetch_chunks(digests))

    def hold_chunks(self, digests: Sequence[Digest], read: ReadChunk) -> None:
        """See `Records.hold_chunks`: a node that is there looks after them."""
        services = self._ways.any_p2p or self._ways.current
        services.records.hold_chunks(digests, read)

    async def republish_due(self) -> int:
        """See `Records.republish_due`."""
        return await self._ways.call(lambda way: way.records.republish_due())


class SwitchingControl:
    """`Control` by the way of the moment."""

    def __init__(self, ways: Ways) -> None:
        self._ways = ways

    def on_submit(self, handler: SubmitHandler | None) -> None:
        """See `Control.on_submit`."""
        self._ways.current.control.on_submit(handler)

    async def submit(
        self, envelope: Envelope, *, to: PeerId, timeout_s: float = SUBMIT_TIMEOUT_S
    ) -> Envelope:
        """See `Control.submit`; whom nobody can reach hands the committed blob over right after."""
        ack = await self._ways.call(
            lambda way: way.control.submit(envelope, to=to, timeout_s=timeout_s)
        )
        if self._ways.is_http and self._ways.http is not None and class_of(envelope) is Commit:
            commit = decode_payload(envelope.payload_type, envelope.payload, Commit)
            self._ways.http.blobs.offer(commit.blob_id)
        return ack

    def on_watch(self, handler: WatchHandler | None) -> None:
        """See `Control.on_watch`."""
        self._ways.current.control.on_watch(handler)

    async def watch(self, wishes: Sequence[Wish], *, to: PeerId, wait_s: float) -> list[News]:
        """See `Control.watch`; begins again by the new way when the way is left meanwhile."""
        return await self._ways.hold(lambda way: way.control.watch(wishes, to=to, wait_s=wait_s))

    async def time_of(self, peer: PeerId) -> int:
        """See `Control.time_of`."""
        return await self._ways.call(lambda way: way.control.time_of(peer))


class SwitchingBlobs:
    """`Blobs` by the way of the moment, over one store."""

    def __init__(self, ways: Ways) -> None:
        self._ways = ways
        blobs = (ways.any_p2p or ways.current).blobs  # what a node serves it counts there
        self.store, self.traffic, self.faults = blobs.store, blobs.traffic, blobs.faults
        for services in (ways.any_p2p, ways.http):
            if services is not None:
                services.blobs.traffic, services.blobs.faults = self.traffic, self.faults
        self._mine: deque[Digest] = deque(maxlen=KEPT_OFFERS)
        self._waiting: set[asyncio.Task[None]] = set()
        ways.on_http(self._hand_over)

    async def fetch(
        self,
        blob_id: Digest,
        *,
        sources: Sequence[PeerId],
        max_bytes: int,
        timeout_s: float,
        progress: Progress | None = None,
    ) -> Path:
        """See `Blobs.fetch`."""
        return await self._ways.fetch(
            lambda blobs, left_s: blobs.fetch(
                blob_id, sources=sources, max_bytes=max_bytes, timeout_s=left_s, progress=progress
            ),
            timeout_s=timeout_s,
        )

    async def fetch_chunks(
        self,
        blob_id: Digest,
        *,
        chunks: Collection[int],
        sources: Sequence[PeerId],
        max_bytes: int,
        timeout_s: float,
        progress: Progress | None = None,
    ) -> None:
        """See `Blobs.fetch_chunks`."""
        await self._ways.fetch(
            lambda blobs, left_s: blobs.fetch_chunks(
                blob_id,
                chunks=chunks,
                sources=sources,
                max_bytes=max_bytes,
                timeout_s=left_s,
                progress=progress,
            ),
            timeout_s=timeout_s,
        )

    def withhold(self, blob_id: Digest) -> None:
        """See `Blobs.withhold`."""
        self.store.withhold(blob_id)

    def release(self, blob_id: Digest) -> None:
        """See `Blobs.release`; what nobody comes for is handed in over HTTPS."""
        self._ways.current.blobs.release(blob_id)
        if blob_id not in self._mine:
            self._mine.append(blob_id)
        if not self._ways.is_http and self._ways.http is not None:
            offering = self._offer_if_alone(blob_id, before=self.traffic.up_bytes)
            task = asyncio.create_task(offering, name="ares-offer-if-alone")
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)

    async def _offer_if_alone(self, blob_id: Digest, *, before: int) -> None:
        """Hand a contribution in when it seems that nobody can reach this peer to fetch it."""
        await self._ways.clock.sleep(ALONE_S)
        size = await asyncio.to_thread(self._size, blob_id)
        if self._ways.http is not None and self.traffic.up_bytes - before < size:
            log.info("contribution_handed_in", blob=blob_id.hex()[:12])
            self._ways.http.blobs.offer(blob_id)

    def _size(self, blob_id: Digest) -> int:
        return self.store.size(blob_id) if self.store.has(blob_id) else 0

    def _hand_over(self) -> None:
        if self._ways.http is not None:
            for blob_id in self._mine:
                self._ways.http.blobs.offer(blob_id)

    async def close(self) -> None:
        """End what is still under way."""
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)
