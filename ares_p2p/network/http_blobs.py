"""Blobs over HTTPS: fetched from the coordinator by range, and the own contribution handed to it.

Nobody can reach a peer behind this way, so whatever it has for others goes to the coordinator,
which keeps and serves it once the round's commits are closed. Only a blob that the peer has
committed to is taken. An upload that breaks off goes on where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import structlog

from ares_p2p.errors import (
    AresError,
    BlobUnavailable,
    CoordinatorAway,
    NetworkFault,
    PayloadMalformed,
    RateLimited,
    RpcTimeout,
)
from ares_p2p.ids import CHUNK_BYTES, DIGEST_BYTES, ChunkList, Digest, PeerId
from ares_p2p.network.blob_serve import MAX_CHUNKS_PER_REQUEST
from ares_p2p.network.blob_store import BlobStore
from ares_p2p.network.blobs import BlobExchange, Traffic
from ares_p2p.network.http_api import MAX_MISSING_RUNS, UPLOAD_CHUNKS
from ares_p2p.network.http_client import ApiClient

LIST_TIMEOUT_S = 15.0
CHUNKS_TIMEOUT_S = 60.0  # 768 KiB: at 13 kB/s
UPLOAD_S = 600.0  # then nobody waits for it any more
UPLOAD_PAUSE_S = 1.0

log = structlog.get_logger(__name__)


class HttpBlobTransport:
    """Range requests to the coordinator."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def chunk_list(self, source: PeerId, blob_id: Digest) -> AsyncGenerator[bytes, None]:
        """Yield the chunk list's bytes."""
        self._check(source, blob_id)
        path = f"/blobs/{blob_id.hex()}/chunks"
        async with aclosing(self._stream(path, {}, wanted=200)) as pieces:
            async for piece in pieces:
                yield piece

    async def chunks(
        self, source: PeerId, blob_id: Digest, *, first: int, count: int
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of some chunks."""
        self._check(source, blob_id)
        if first < 0 or not 0 < count <= MAX_CHUNKS_PER_REQUEST:
            raise PayloadMalformed(f"{count} chunks, 1 to {MAX_CHUNKS_PER_REQUEST} at a time")
        start, end = first * CHUNK_BYTES, (first + count) * CHUNK_BYTES
        headers = {"Range": f"bytes={start}-{end - 1}"}
        left = end - start
        async with aclosing(self._stream(f"/blobs/{blob_id.hex()}", headers, wanted=206)) as pieces:
            async for piece in pieces:
                left -= len(piece)
                if left < 0:
                    raise PayloadMalformed("more bytes than asked for")
                yield piece

    def _check(self, source: PeerId, blob_id: Digest) -> None:
        if len(blob_id) != DIGEST_BYTES:
            raise PayloadMalformed(f"blob id of {len(blob_id)} bytes, {DIGEST_BYTES} expected")
        if source != self._api.coordinator:
            raise BlobUnavailable("only the coordinator is reached over HTTPS")

    async def _stream(
        self, path: str, headers: dict[str, str], *, wanted: int
    ) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(self._api.stream(path, headers=headers, wanted=wanted)) as pieces:
                async for piece in pieces:
                    yield piece
        except CoordinatorAway as error:  # of a download's sources, one is silent
            raise RpcTimeout(error.message) from error


class HttpBlobs(BlobExchange):
    """One peer's blobs over HTTPS.

    Args:
        traffic: counted on, where another way counts too.
    """

    def __init__(self, api: ApiClient, store: BlobStore, *, traffic: Traffic | None = None) -> None:
        super().__init__(store, HttpBlobTransport(api), me=api.identity.peer_id)
        self.traffic = traffic or self.traffic
        self._api = api
        self._offers: dict[Digest, asyncio.Task[None]] = {}

    def _asked(self, sources: Sequence[PeerId]) -> list[PeerId]:
        """Return the coordinator: what any peer serves, it has or will have."""
        return [self._api.coordinator] if sources else []

    def release(self, blob_id: Digest) -> None:
        """See `Blobs.release`: to be served means here to be with the coordinator."""
        super().release(blob_id)
        self.offer(blob_id)

    # --- handing over --------------------------------------------------------------------------

    def offer(self, blob_id: Digest) -> None:
        """Hand a blob that is held here to the coordinator, in the background; once at a time."""
        running = self._offers.get(blob_id)
        if (running is None or running.done()) and self.store.has(blob_id):
            self._offers = {key: task for key, task in self._offers.items() if not task.done()}
            self._offers[blob_id] = asyncio.create_task(
                self._offer(blob_id), name=f"ares-offer-{blob_id.hex()[:8]}"
            )

    async def _offer(self, blob_id: Digest) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(UPLOAD_S):
                while True:
                    try:
                        await self.upload(blob_id)
                        return
                    except (NetworkFault, RateLimited) as fault:
                        log.info("upload_waits", code=fault.code, reason=fault.message)
                    except AresError as fault:
                        log.info("upload_refused", code=fault.code, reason=fault.message)
                        return
                    await asyncio.sleep(UPLOAD_PAUSE_S)

    async def upload(self, blob_id: Digest) -> None:
        """Hand a blob over; return when the coordinator has all of it.

        Raises: BlobUnavailable: it is not held here. PeerFault: the coordinator does not take it.
            NetworkFault: it could not be reached in between; what is there stays there.
        """
        chunks = await asyncio.to_thread(self.store.chunk_list, blob_id)
        path, encoded = f"/training/gradient/{blob_id.hex()}", chunks.encode()
        while True:
            answer = await self._api.put(path, encoded, timeout_s=LIST_TIMEOUT_S)
            self.traffic.up_bytes += len(encoded)
            if answer.get("complete") is True:
                return
            for first, end in _runs(answer.get("missing"), chunks):
                await self._send(path, blob_id, chunks, first, end)

    async def _send(
        self, path: str, blob_id: Digest, chunks: ChunkList, first: int, end: int
    ) -> None:
        with self.traffic.upload.stream():
            for start in range(first, end, UPLOAD_CHUNKS):
                wanted = range(start, min(end, start + UPLOAD_CHUNKS))
                body = await asyncio.to_thread(self._read, blob_id, chunks, wanted)
                await self._api.put(f"{path}/{start}", body, timeout_s=CHUNKS_TIMEOUT_S)
                self.traffic.upload.sent(len(body))
                self.traffic.up_bytes += len(body)

    def _read(self, blob_id: Digest, chunks: ChunkList, wanted: range) -> bytes:
        return b"".join(self.store.read_chunk(blob_id, chunks, index) for index in wanted)

    async def close(self) -> None:
        """End what is still under way."""
        for task in self._offers.values():
            task.cancel()
        await asyncio.gather(*self._offers.values(), return_exceptions=True)


def _runs(said: object, chunks: ChunkList) -> list[tuple[int, int]]:
    """Return which runs of chunks the coordinator still wants.

    Raises: CoordinatorAway: it says something else, or wants nothing and has not all.
    """
    count, runs = len(chunks.chunk_sha256), []
    for run in said if isinstance(said, list) else []:
        good = isinstance(run, list) and len(run) == 2 and all(type(n) is int for n in run)
        if not good or not 0 <= run[0] < run[1] <= count:
            raise CoordinatorAway("the coordinator asks for chunks that are none")
        runs.append((run[0], run[1]))
    if not 0 < len(runs) <= MAX_MISSING_RUNS:
        raise CoordinatorAway("the coordinator neither has the blob nor says what is missing")
    return runs
