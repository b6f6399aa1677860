"""One download: many chunks from many sources, nothing trusted before its hash fits.

A whole blob, or only the chunks that somebody needs of it.

First the chunk list, from whichever source answers with one that hashes to the blob id. Then
workers, two per source, take spans of missing chunks; what a source does not deliver goes back
and another takes it. When nothing is left to take, what one source has been busy with for
seconds is asked of another too, so that a slow one cannot hold the end up. A source is dropped for good, with the
reason recorded, when it sends wrong bytes or says that it has not got the blob, and after
several silences. A stream that ends early is a silence: libp2p does not tell it from an end.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ares_p2p.errors import (
    AresError,
    BlobUnavailable,
    HashMismatch,
    NodeDied,
    Oversize,
    PayloadMalformed,
    RateLimited,
    RpcTimeout,
)
from ares_p2p.ids import CHUNK_BYTES, ChunkList, Digest, PeerId
from ares_p2p.network.blob_store import BlobStore

SPAN_CHUNKS = 8  # asked for at a time: 2 MiB
WORKERS_PER_SOURCE = 2
ACTIVE_SOURCES = 8  # the others step in when one is dropped
PIECE_TIMEOUT_S = 10.0  # silence after which a stream counts as dead
SLOW_S = 3.0  # then another source is asked for the same chunks
MIN_RATE_BYTES_PER_S = 32 * 1024  # slower sources are worse than none
MAX_SILENCES = 2  # in a row, without one good chunk between them
MAX_BUSY_ANSWERS = 8  # "rate limited" in a row
NEXT_SOURCE_S = 1.0  # how long one source may think about the list before the next is asked
MAX_LIST_HEAD_BYTES = 64


class BlobTransport(Protocol):
    """Two streams from a peer; both raise AresError, both may simply end too early."""

    def chunk_list(self, source: PeerId, blob_id: Digest) -> AsyncGenerator[bytes, None]:
        """Yield the chunk list's bytes."""
        ...

    def chunks(
        self, source: PeerId, blob_id: Digest, *, first: int, count: int
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of `count` chunks, in pieces of any size."""
        ...


@dataclass(frozen=True, slots=True)
class SourceFault:
    """Why a source was not asked any further for a blob."""

    source: PeerId
    blob_id: Digest
    code: str
    message: str


class Download:
    """Fetches one blob, or some chunks of one, into a store; `run` once."""

    def __init__(
        self,
        store: BlobStore,
        transport: BlobTransport,
        blob_id: Digest,
        *,
        sources: Sequence[PeerId],
        max_bytes: int,
        progress: Callable[[int, int], None] | None,
        wanted: Collection[int] | None = None,
    ) -> None:
        self.faults: list[SourceFault] = []
        self.received_bytes = 0
        self._store = store
        self._transport = transport
        self._blob_id = blob_id
        self._sources = deque(dict.fromkeys(sources))
        self._max_bytes = max_bytes
        self._progress = progress
        self._wanted = wanted
        self._dropped: set[PeerId] = set()
        self._chunks = ChunkList(0, ())
        self._missing: set[int] = set()
        self._here_bytes = self._wanted_bytes = 0
        self._takers: dict[int, dict[PeerId, float]] = {}  # chunk -> sources, since when
        self._changed = asyncio.Condition()

    async def run(self, *, timeout_s: float) -> Path:
        """Return the path of the complete blob; of its unfinished file when not all is wanted.

        Raises: see `Blobs.fetch` and `Blobs.fetch_chunks`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                self._chunks = await self._list()
                if self._chunks.size_bytes > self._max_bytes:
                    raise Oversize(
                        f"blob {self._name} has {self._chunks.size_bytes:,} bytes, at most "
                        f"{self._max_bytes:,} expected"
                    )
                wanted = self._all_wanted()
                good = await asyncio.to_thread(
                    self._store.begin_partial, self._blob_id, self._chunks, self._wanted
                )
                self._missing = wanted - good
                self._wanted_bytes = sum(map(self._size_of, wanted))
                self._here_bytes = sum(map(self._size_of, good))
                self._report()
                await self._fetch_missing()
        except TimeoutError as error:
            raise BlobUnavailable(
                f"blob {self._name} is not complete after {timeout_s:g} s; {self._reasons}"
            ) from error
        if self._wanted is not None:
            return self._store.path(self._blob_id)
        return await asyncio.to_thread(self._store.finish_partial, self._blob_id, self._chunks)

    def _all_wanted(self) -> set[int]:
        """Return the chunks to end with. Raises: PayloadMalformed: the blob has no such chunk."""
        count = len(self._chunks.chunk_sha256)
        if self._wanted is None:
            return set(range(count))
        if any(not 0 <= index < count for index in self._wanted):
            raise PayloadMalformed(
                f"blob {self._name} has {count} chunks, chunk {max(self._wanted)} is asked for"
            )
        return set(self._wanted)

    @property
    def _name(self) -> str:
        return self._blob_id.hex()[:12]

    @property
    def _reasons(self) -> str:
        if not self.faults:
            return "no source was named" if not self._sources else "its sources are too slow"
        return "; ".join(f"{f.source[-8:]}: {f.message}" for f in self.faults[-8:])

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self._here_bytes, self._wanted_bytes)

    def _drop(self, source: PeerId, error: AresError) -> None:
        if source not in self._dropped:
            self._dropped.add(source)
            self.faults.append(SourceFault(source, self._blob_id, error.code, error.message))

    # --- the chunk list ------------------------------------------------------------------------

    async def _list(self) -> ChunkList:
        kept = self._store.partial_list(self._blob_id)
        if kept is not None:
            return kept
        waiting = deque(self._sources)
        asked: dict[asyncio.Task[ChunkList], PeerId] = {}
        try:
            while waiting or asked:
                if waiting:
                    source = waiting.popleft()
                    asked[asyncio.create_task(self._list_from(source))] = source
                pause_s = NEXT_SOURCE_S if waiting else None
                done, _ = await asyncio.wait(
                    asked, timeout=pause_s, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    source = asked.pop(task)
                    error = task.exception()
                    if error is None:
                        return task.result()
                    if isinstance(error, NodeDied) or not isinstance(error, AresError):
                        raise error
                    self._drop(source, error)
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        raise BlobUnavailable(f"nobody serves blob {self._name}; {self._reasons}")

    async def _list_from(self, source: PeerId) -> ChunkList:
        most = MAX_LIST_HEAD_BYTES + 32 * (-(-self._max_bytes // CHUNK_BYTES))
        data = bytearray()
        async with aclosing(_timed(self._transport.chunk_list(source, self._blob_id))) as pieces:
            async for piece in pieces:
                data += piece
                if len(data) > most:
                    raise Oversize(f"chunk list of more than {most:,} bytes")
        if not data:
            raise RpcTimeout("the stream ended before the chunk list")
        return ChunkList.decode(bytes(data), blob_id=self._blob_id)

    # --- the chunks ----------------------------------------------------------------------------

    async def _fetch_missing(self) -> None:
        waiting = deque(source for source in self._sources if source not in self._dropped)
        workers: set[asyncio.Task[None]] = set()
        try:
            while self._missing:
                active = len(workers) // WORKERS_PER_SOURCE
                while waiting and active < ACTIVE_SOURCES:
                    source = waiting.popleft()
                    for _ in range(WORKERS_PER_SOURCE):
                        workers.add(asyncio.create_task(self._work(source)))
                    active += 1
                if not workers:
                    raise BlobUnavailable(f"no source is left for {self._name}; {self._reasons}")
                done, workers = await asyncio.wait(workers, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # our own faults (full disk, dead node) end the download
        finally:
            for task in workers:
                task.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self, source: PeerId) -> None:
        """Fetch spans from one source until nothing is missing or the source is dropped."""
        silences = busy_answers = 0
        while source not in self._dropped:
            span = await self._take_span(source)
            if not span:
                return
            before = len(self._missing)
            try:
                await self._fetch_span(source, span)
                silences = busy_answers = 0
            except RateLimited as error:
                busy_answers += 1
                if busy_answers >= MAX_BUSY_ANSWERS:
                    self._drop(source, error)
            except (RpcTimeout, TimeoutError) as error:
                silences = 1 if len(self._missing) < before else silences + 1
                if silences >= MAX_SILENCES:
                    message = getattr(error, "message", "") or "it went silent"
                    self._drop(source, RpcTimeout(message))
            except (BlobUnavailable, HashMismatch, Oversize, PayloadMalformed) as error:
                self._drop(source, error)
            finally:
                await self._return_span(source, span)
            if busy_answers or silences:
                await asyncio.sleep(0.1 * 2 ** (busy_answers + silences) * random.uniform(0.5, 1))

    async def _take_span(self, source: PeerId) -> range:
        """Return chunks to fetch: untaken ones, else what another source is slow with."""
        async with self._changed:
            while self._missing:
                now_s = asyncio.get_running_loop().time()
                is_slow = functools.partial(self._is_slow, source=source, now_s=now_s)
                span = self._run_of(self._is_free) or self._run_of(is_slow)
                if span:
                    for index in span:
                        self._takers.setdefault(index, {})[source] = now_s
                    return span
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SLOW_S / 2):
                        await self._changed.wait()
        return range(0)

    def _run_of(self, is_wanted: Callable[[int], bool]) -> range:
        """Return the first run of missing chunks that are wanted, at most a span of them."""
        first = min((index for index in self._missing if is_wanted(index)), default=None)
        if first is None:
            return range(0)
        end = first + 1
        while end - first < SPAN_CHUNKS and end in self._missing and is_wanted(end):
            end += 1
        return range(first, end)

    def _is_free(self, index: int) -> bool:
        return not self._takers.get(index)

    def _is_slow(self, index: int, *, source: PeerId, now_s: float) -> bool:
        takers = self._takers.get(index, {})
        return len(takers) == 1 and source not in takers and min(takers.values()) < now_s - SLOW_S

    async def _return_span(self, source: PeerId, span: range) -> None:
        async with self._changed:
            for index in span:
                self._takers[index].pop(source, None)
            self._changed.notify_all()

    def _size_of(self, index: int) -> int:
        return min(CHUNK_BYTES, self._chunks.size_bytes - index * CHUNK_BYTES)

    async def _fetch_span(self, source: PeerId, span: range) -> None:
        """Fetch a span; stop early when others have fetched all of it meanwhile.

        Raises: RpcTimeout, TimeoutError: silence. HashMismatch, PayloadMalformed: wrong bytes.
        """
        wanted = sum(self._size_of(index) for index in span)
        stream = self._transport.chunks(source, self._blob_id, first=span.start, count=len(span))
        buffer, index = bytearray(), span.start
        async with (
            asyncio.timeout(PIECE_TIMEOUT_S + wanted / MIN_RATE_BYTES_PER_S),
            aclosing(_timed(stream)) as pieces,
        ):
            async for piece in pieces:
                self.received_bytes += len(piece)
                buffer += piece
                while index < span.stop and len(buffer) >= self._size_of(index):
                    size = self._size_of(index)
                    await self._keep_chunk(index, bytes(buffer[:size]))
                    del buffer[:size]
                    index += 1
                if index == span.stop and buffer:
                    raise PayloadMalformed("more bytes than asked for")
                if self._missing.isdisjoint(span):
                    return
        if index < span.stop:
            raise RpcTimeout(f"the stream ended at chunk {index} of {span.stop - 1}")

    async def _keep_chunk(self, index: int, data: bytes) -> None:
        if index not in self._missing:
            return
        await asyncio.to_thread(self._store.write_chunk, self._blob_id, self._chunks, index, data)
        if index not in self._missing:  # another source was faster meanwhile
            return
        self._missing.discard(index)
        self._here_bytes += len(data)
        self._report()
        if not self._missing:
            async with self._changed:
                self._changed.notify_all()


async def _timed(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Yield from a stream that must not pause for longer than PIECE_TIMEOUT_S.

    Raises: RpcTimeout.
    """
    async with aclosing(pieces):
        while True:
            try:
                async with asyncio.timeout(PIECE_TIMEOUT_S):
                    piece = await anext(pieces)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise RpcTimeout(f"nothing came for {PIECE_TIMEOUT_S:g} s") from error
            yield piece
