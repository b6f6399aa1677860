"""Contributions that come over HTTPS, from peers that nobody can reach to fetch them.

A blob is taken only from a peer whose commit of the running round names it, only with the size
that the commit names, chunk by chunk, each with the right hash. So nobody fills the disk: what
can come in is what the round's commits promise, once, and nothing else is ever written. Until the
commits are closed it lies apart, where neither way serves it; then it moves to the other blobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from ares_coordinator.store.base import Store
from ares_coordinator.store.rows import RoundState
from ares_coordinator.store.thread import StoreThread
from ares_p2p.domain import Commit
from ares_p2p.errors import (
    BlobUnavailable,
    CommitLate,
    PayloadMalformed,
    UnknownRound,
    WrongSigner,
)
from ares_p2p.ids import CHUNK_BYTES, DIGEST_BYTES, ChunkList, Digest, PeerId
from ares_p2p.network.blob_store import BlobStore
from ares_p2p.network.http_api import MAX_MISSING_RUNS
from ares_p2p.wire.codec import decode_envelope, decode_payload

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Handover:
    """How far an upload is: `missing` are runs of chunks, the first ones, as (first, end)."""

    is_complete: bool
    missing: tuple[tuple[int, int], ...] = ()


@dataclass(slots=True)
class _Upload:
    chunks: ChunkList
    missing: set[int] = field(default_factory=set)
    is_begun: bool = False  # the disk was looked at: `missing` is right
    peers: set[PeerId] = field(default_factory=set)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class Intake:
    """One per coordinator.

    Args:
        staging: where uploads lie until they may be served; nothing else may lie in it.
        blobs: what the coordinator serves.
    """

    db: StoreThread
    staging: BlobStore
    blobs: BlobStore
    _uploads: dict[Digest, _Upload] = field(default_factory=dict)
    _moving: asyncio.Lock = field(default_factory=asyncio.Lock)
    _arrivals: dict[Digest, asyncio.Event] = field(default_factory=dict)  # that somebody awaits

    async def begin(self, peer: PeerId, blob_id: Digest, encoded: bytes) -> Handover:
        """Return what is missing of a blob that `peer` has committed to.

        Args:
            encoded: the blob's chunk list.
        Raises: UnknownRound: no commit of its names the blob. CommitLate: the round is over.
            HashMismatch, PayloadMalformed: not the blob's list, or of another size. DiskFull.
        """
        commit, is_open = await self._commit_of(peer, blob_id)
        if self.blobs.has(blob_id) or self.staging.has(blob_id):
            if not is_open:
                await self._move(blob_id)
            return Handover(is_complete=True)
        chunks = ChunkList.decode(encoded, blob_id=blob_id)
        if chunks.size_bytes != commit.blob_size_bytes:
            raise PayloadMalformed(
                f"a blob of {chunks.size_bytes} bytes, the commit names {commit.blob_size_bytes}"
            )
        upload = self._uploads.setdefault(blob_id, _Upload(chunks))
        upload.peers.add(peer)
        async with upload.lock:
            if not upload.is_begun:
                good = await asyncio.to_thread(self.staging.begin_partial, blob_id, chunks)
                upload.missing = set(range(len(chunks.chunk_sha256))) - good
                upload.is_begun = True
            if not upload.missing:
                await self._finish(blob_id, upload)
            return _handover(upload)

    async def add(self, peer: PeerId, blob_id: Digest, first: int, data: bytes) -> Handover:
        """Take some chunks of a blob, from chunk `first` on.

        Raises: BlobUnavailable: its list comes first. WrongSigner: somebody else's upload.
            HashMismatch, PayloadMalformed: other bytes. CommitLate. DiskFull.
        """
        upload = self._uploads.get(blob_id)
        if upload is None:
            raise BlobUnavailable("the blob's chunk list comes first")
        if peer not in upload.peers:
            raise WrongSigner("this blob is handed over by another peer")
        places = _places(upload.chunks, first, data)
        async with upload.lock:
            if self._uploads.get(blob_id) is not upload or not upload.is_begun:
                raise BlobUnavailable("the upload was ended; its chunk list comes first")
            for index, start, end in places:
                if index in upload.missing:
                    chunk = data[start:end]
                    await asyncio.to_thread(
                        self.staging.write_chunk, blob_id, upload.chunks, index, chunk
                    )
                    upload.missing.discard(index)
            if not upload.missing:
                await self._finish(blob_id, upload)
            return _handover(upload)

    async def admit(self, blob_ids: Collection[Digest]) -> None:
        """Serve what came in of a round whose commits are closed, and forget all other uploads.

        What is still coming in of these blobs is served as soon as it is complete.
        """
        for blob_id in await asyncio.to_thread(self._staged):
            upload = self._uploads.get(blob_id)
            if blob_id in blob_ids:
                if self.staging.has(blob_id):
                    await self._move(blob_id)
                continue
            if upload is not None:
                del self._uploads[blob_id]
                async with upload.lock:
                    await asyncio.to_thread(self.staging.delete, blob_id)
            else:
                await asyncio.to_thread(self.staging.delete, blob_id)

    async def or_upload(self, blob_id: Digest, fetching: Coroutine[Any, Any, Path]) -> Path:
        """Return what `fetching` brings, or the blob as soon as its author has handed it in.

        Whoever hands it in cannot be reached, and fetching from it would only run into timeouts.
        Raises: what `fetching` raises.
        """
        arrived = self._arrivals.setdefault(blob_id, asyncio.Event())
        tasks = asyncio.create_task(fetching), asyncio.create_task(arrived.wait())
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return tasks[0].result() if tasks[0].done() else self.blobs.path(blob_id)
        finally:
            self._arrivals.pop(blob_id, None)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self.blobs.has(blob_id):  # what was fetched of it by then is of no use any more
                self.blobs.path(blob_id).with_suffix(".part").unlink(missing_ok=True)

    async def _finish(self, blob_id: Digest, upload: _Upload) -> None:
        """Complete an upload; serve it at once when the commits are closed by now."""
        if not self.staging.has(blob_id) and not self.blobs.has(blob_id):
            await asyncio.to_thread(self.staging.finish_partial, blob_id, upload.chunks)
        self._uploads.pop(blob_id, None)
        log.info("contribution_uploaded", blob=blob_id.hex()[:12], size=upload.chunks.size_bytes)
        _, is_open = await self._commit_of(next(iter(upload.peers)), blob_id)
        if not is_open:
            await self._move(blob_id)

    async def _move(self, blob_id: Digest) -> None:
        async with self._moving:  # the close of a round and the last chunk may come together
            if not self.staging.has(blob_id):
                return
            await asyncio.to_thread(self.blobs.put, self.staging.path(blob_id))
            await asyncio.to_thread(self.staging.delete, blob_id)
            if blob_id in self._arrivals:
                self._arrivals[blob_id].set()

    def _staged(self) -> list[Digest]:
        """Return every blob of which there is anything: whole, or begun."""
        found = set()
        for path in self.staging.folder.iterdir():
            try:
                digest = bytes.fromhex(path.stem)
            except ValueError:
                continue
            if len(digest) == DIGEST_BYTES:
                found.add(digest)
        return sorted(found)

    async def _commit_of(self, peer: PeerId, blob_id: Digest) -> tuple[Commit, bool]:
        """Return the commit of the running round by which a peer owes a blob; is it still open?

        Raises: UnknownRound, CommitLate.
        """
        commit, state = await self.db.call(_read_commit, self.db.store, peer, blob_id)
        if state is RoundState.AGGREGATED:
            raise CommitLate(f"round {commit.header.round} is over: nobody waits for the blob")
        return commit, state is RoundState.OPEN


def _read_commit(store: Store, peer: PeerId, blob_id: Digest) -> tuple[Commit, RoundState]:
    cycle = store.latest_cycle()
    latest = None if cycle is None else store.latest_round(cycle.cycle)
    rounds = () if latest is None else store.rounds(latest.cycle)[-2:]
    for row in reversed(rounds):
        for stored in store.commits(row.cycle, row.round):
            if stored.peer == peer:
                envelope = decode_envelope(stored.envelope)
                commit = decode_payload(envelope.payload_type, envelope.payload, Commit)
                if commit.blob_id == blob_id:
                    return commit, row.state
    raise UnknownRound("no commit of this peer in the running round names this blob")


def _places(chunks: ChunkList, first: int, data: bytes) -> list[tuple[int, int, int]]:
    """Return (chunk, start, end) of what came.

    Raises: PayloadMalformed: not whole chunks of the blob.
    """
    places, start, index = [], 0, first
    while start < len(data) and index < len(chunks.chunk_sha256):
        end = start + min(CHUNK_BYTES, chunks.size_bytes - index * CHUNK_BYTES)
        places.append((index, start, end))
        start, index = end, index + 1
    if not places or start != len(data):
        raise PayloadMalformed(f"{len(data)} bytes from chunk {first} on are not whole chunks")
    return places


def _handover(upload: _Upload) -> Handover:
    runs: list[tuple[int, int]] = []
    for index in sorted(upload.missing):
        if runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return Handover(not upload.missing, tuple(runs[:MAX_MISSING_RUNS]))
