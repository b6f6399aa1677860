"""Serving blobs: what any remote may ask of this node, within limits, and what it gets.

A blob that is withheld is answered exactly like one that is not here, so that nobody can tell a
contribution is finished before the commits close. Bytes are verified as they leave the disk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from ares_p2p.errors import BlobUnavailable, PayloadMalformed
from ares_p2p.ids import DIGEST_BYTES, ChunkList, Digest, PeerId
from ares_p2p.network.blob_store import BlobStore
from ares_p2p.network.blobs import Traffic
from ares_p2p.network.limits import RemoteLimits, Throttle

PIECE_BYTES = 64 * 1024  # a message; hivemind streams these at 186 MiB/s, 16 kB ones at 135
MAX_CHUNKS_PER_REQUEST = 64  # 16 MiB


@dataclass(frozen=True, slots=True)
class ServeLimits:
    """What one node gives away.

    Attributes:
        upload_bytes_per_s: over all remotes; None for no limit.
        requests_per_s: per remote, twice as many at once.
        streams_per_remote, streams: open at a time.
    """

    upload_bytes_per_s: float | None = None
    requests_per_s: float = 50.0
    streams_per_remote: int = 4
    streams: int = 64


class BlobServer:
    """Answers requests from a store."""

    def __init__(
        self,
        store: BlobStore,
        traffic: Traffic,
        limits: ServeLimits,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._traffic = traffic
        self._throttle = Throttle(limits.upload_bytes_per_s)
        self._remotes = RemoteLimits(
            requests_per_s=limits.requests_per_s,
            burst=2 * limits.requests_per_s,
            streams_per_remote=limits.streams_per_remote,
            streams=limits.streams,
            monotonic=monotonic,
        )

    def _chunk_list(self, blob_id: Digest) -> ChunkList:
        if len(blob_id) != DIGEST_BYTES:
            raise PayloadMalformed(f"blob id of {len(blob_id)} bytes, {DIGEST_BYTES} expected")
        if self._store.is_withheld(blob_id) or not self._store.has(blob_id):
            raise BlobUnavailable("not held")
        return self._store.chunk_list(blob_id)

    async def _pieces(self, data: bytes) -> AsyncGenerator[bytes, None]:
        for start in range(0, len(data), PIECE_BYTES):
            piece = data[start : start + PIECE_BYTES]
            await self._throttle.wait(len(piece))
            self._traffic.up_bytes += len(piece)
            yield piece  # returns when the transport took it
            self._traffic.upload.sent(len(piece))

    async def chunk_list(self, remote: PeerId, blob_id: Digest) -> AsyncGenerator[bytes, None]:
        """Yield the chunk list of a blob.

        Raises: RateLimited, BlobUnavailable, PayloadMalformed.
        """
        self._remotes.check_rate(remote)
        with self._remotes.stream(remote):
            chunks = await asyncio.to_thread(self._chunk_list, blob_id)
            async for piece in self._pieces(chunks.encode()):
                yield piece

    async def chunks(
        self, remote: PeerId, blob_id: Digest, *, first: int, count: int
    ) -> AsyncGenerator[bytes, None]:
        """Yield some chunks of a blob, in order.

        Raises: RateLimited, BlobUnavailable, PayloadMalformed, HashMismatch.
        """
        self._remotes.check_rate(remote)
        with self._remotes.stream(remote), self._traffic.upload.stream():
            chunks = await asyncio.to_thread(self._chunk_list, blob_id)
            last = first + count
            if not 0 < count <= MAX_CHUNKS_PER_REQUEST or last > len(chunks.chunk_sha256):
                raise PayloadMalformed(
                    f"chunks {first}..{last - 1} of {len(chunks.chunk_sha256)}, "
                    f"at most {MAX_CHUNKS_PER_REQUEST} at a time"
                )
            for index in range(first, last):
                if self._store.is_withheld(blob_id):
                    raise BlobUnavailable("not held")
                data = await asyncio.to_thread(self._store.read_chunk, blob_id, chunks, index)
                async for piece in self._pieces(data):
                    yield piece
