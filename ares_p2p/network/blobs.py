"""Content-addressed blobs between peers: the interface that the roles program against.

`BlobExchange` fulfils it over any transport: `HivemindBlobs` (streaming RPC over the node's
P2P) and `InMemoryBlobs` (simulations) pass the same tests. The disk is `BlobStore`.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ares_p2p.clock import Clock
from ares_p2p.errors import BlobUnavailable
from ares_p2p.ids import Digest, PeerId
from ares_p2p.network.blob_fetch import BlobTransport, Download, SourceFault
from ares_p2p.network.blob_store import BlobStore
from ares_p2p.network.uploads import UploadMeter

__all__ = ["BlobExchange", "BlobStore", "Blobs", "Progress", "SourceFault", "Traffic"]

Progress = Callable[[int, int], None]  # bytes that are here, bytes in all
MIN_FETCH_S = 2.0  # a last try is a real one, also when the deadline is over
ASK_AGAIN_S = 0.3
MAX_FAULTS = 1000  # remembered with their reason


@dataclass(slots=True)
class Traffic:
    """Bytes of blobs that went each way since the start, and how fast our line sends."""

    up_bytes: int = 0
    down_bytes: int = 0
    upload: UploadMeter = field(default_factory=UploadMeter)


class Blobs(Protocol):
    """Exchange of blobs.

    Attributes:
        store: the blobs held here; whatever is complete in it is served, unless withheld.
        traffic: bytes up and down.
        faults: sources that were dropped, and why; the latest ones.
    """

    store: BlobStore
    traffic: Traffic
    faults: deque[SourceFault]

    async def fetch(
        self,
        blob_id: Digest,
        *,
        sources: Sequence[PeerId],
        max_bytes: int,
        timeout_s: float,
        progress: Progress | None = None,
    ) -> Path:
        """Return the path of the blob, fetched from `sources` unless it is here already.

        The chunk list comes first and must hash to `blob_id`; every chunk is verified; several
        sources serve at once, bad ones are dropped and recorded. What is there when it fails
        (or the process is killed) is used by the next call.

        Raises: Oversize: the blob has more than `max_bytes`. BlobUnavailable: no source is left,
            or the time is over. DiskFull. NodeDied.
        """
        ...

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
        """Bring some chunks of a blob here; `store.read_range` reads them then.

        As `fetch`, but for less: what is here of a blob is not served to others before all of it
        is, and the chunk list alone decides what belongs to it.

        Args:
            max_bytes: of the whole blob.
        Raises: as `fetch`. PayloadMalformed: the blob is shorter than that.
        """
        ...

    def withhold(self, blob_id: Digest) -> None:
        """Do not serve this blob: to others it is as if it were not here."""
        ...

    def release(self, blob_id: Digest) -> None:
        """Serve it again."""
        ...


async def fetch_until(
    blobs: Blobs,
    blob_id: Digest,
    *,
    sources: Sequence[PeerId],
    max_bytes: int,
    clock: Clock,
    deadline_ms: int,
    progress: Progress | None = None,
) -> Path:
    """Return the path of a blob whose sources may not serve it yet, asking until the deadline.

    Right after a round's commits close, a peer that has not read so yet still withholds its blob.

    Raises: as `Blobs.fetch`; BlobUnavailable only after the deadline.
    """
    while True:
        left_s = (deadline_ms - clock.now_ms()) / 1000
        try:
            return await blobs.fetch(
                blob_id,
                sources=sources,
                max_bytes=max_bytes,
                timeout_s=max(MIN_FETCH_S, left_s),
                progress=progress,
            )
        except BlobUnavailable:
            if left_s <= 0:
                raise
            await clock.sleep(ASK_AGAIN_S)


class BlobExchange:
    """`Blobs` over a transport. Fetching one blob twice at a time makes the second call wait."""

    def __init__(self, store: BlobStore, transport: BlobTransport, *, me: PeerId) -> None:
        self.store = store
        self.traffic = Traffic()
        self.faults: deque[SourceFault] = deque(maxlen=MAX_FAULTS)
        self._transport = transport
        self._me = me
        self._busy: dict[Digest, asyncio.Lock] = {}
        self._users: Counter[Digest] = Counter()  # callers that hold or await the lock

    @asynccontextmanager
    async def _exclusive(self, blob_id: Digest) -> AsyncIterator[None]:
        lock = self._busy.setdefault(blob_id, asyncio.Lock())
        self._users[blob_id] += 1
        try:
            async with lock:
                yield
        finally:
            self._users[blob_id] -= 1
            if not self._users[blob_id]:
                del self._busy[blob_id], self._users[blob_id]

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
        return await self._download(
            blob_id, sources, max_bytes=max_bytes, timeout_s=timeout_s, progress=progress
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
        await self._download(
            blob_id,
            sources,
            max_bytes=max_bytes,
            timeout_s=timeout_s,
            progress=progress,
            wanted=chunks,
        )

    async def _download(
        self,
        blob_id: Digest,
        sources: Sequence[PeerId],
        *,
        max_bytes: int,
        timeout_s: float,
        progress: Progress | None,
        wanted: Collection[int] | None = None,
    ) -> Path:
        async with self._exclusive(blob_id):
            if self.store.has(blob_id):
                return self.store.path(blob_id)
            download = Download(
                self.store,
                self._transport,
                blob_id,
                sources=self._asked(sources),
                max_bytes=max_bytes,
                progress=progress,
                wanted=wanted,
            )
            try:
                return await download.run(timeout_s=timeout_s)
            finally:
                self.faults.extend(download.faults)
                self.traffic.down_bytes += download.received_bytes

    def _asked(self, sources: Sequence[PeerId]) -> list[PeerId]:
        """Return who of the sources is asked."""
        return [source for source in sources if source != self._me]

    def withhold(self, blob_id: Digest) -> None:
        """See `Blobs.withhold`."""
        self.store.withhold(blob_id)

    def release(self, blob_id: Digest) -> None:
        """See `Blobs.release`."""
        self.store.release(blob_id)
