"""The HTTPS way: for peers whose P2P does not come through. Every request is signed by its peer.

/swarm/time                              the coordinator's clock
/swarm/records?key=                      what lies in the DHT; PUT: a value of the peer's own
/swarm/watch?key=&known=&wait=           what the coordinator signs next
/swarm/register                          POST a signed PeerStatus: the worker is there
/swarm/training/gradient                 POST a signed Commit
/swarm/training/gradient/{blob}          PUT the chunk list of the committed blob
/swarm/training/gradient/{blob}/{chunk}  PUT some of its chunks, from this one on
/swarm/audits/report                     POST a signed AuditReport
/swarm/blobs/{blob}/chunks               a blob's chunk list
/swarm/blobs/{blob}                      its bytes; ranges are served

What travels is the protocol's own: see `ares_p2p.network.http_api`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

import structlog
from aiohttp import hdrs, web

from ares_coordinator.api.body import json_body, signed_body, worker_of
from ares_coordinator.api.edge import json_reply
from ares_coordinator.api.schemas_swarm import (
    AckReply,
    MessageBody,
    NewsReply,
    NewsRow,
    RecordBody,
    RecordRow,
    RecordsReply,
    StoredReply,
    TimeReply,
    UploadReply,
)
from ares_coordinator.intake import Handover
from ares_p2p.crypto.envelope import Envelope
from ares_p2p.domain import AuditReport, Commit, Payload, PeerStatus
from ares_p2p.errors import AresError, BadParameter, PayloadMalformed
from ares_p2p.ids import CHUNK_BYTES, Digest, PeerId
from ares_p2p.network.blob_serve import MAX_CHUNKS_PER_REQUEST
from ares_p2p.network.http_api import (
    MAX_CHUNK_LIST_BYTES,
    MAX_KEYS,
    MAX_MESSAGE_BYTES,
    MAX_STORE_BYTES,
    MAX_UPLOAD_BYTES,
    decode_bytes,
    digest_of,
    encode_bytes,
    found_rows,
    plain_number,
)
from ares_p2p.network.invite import NetworkRef
from ares_p2p.network.record_keys import MAX_RECORD_BYTES
from ares_p2p.network.record_rules import FoundValue
from ares_p2p.network.watching import NOTHING, News, Wish
from ares_p2p.wire.codec import MAX_ENVELOPE_BYTES, class_of, decode_envelope, encode_envelope

STALL_S = 20.0  # whoever takes nothing for so long loses the connection
_RANGE = re.compile(r"bytes=([0-9]{1,12})-([0-9]{1,12})?")

log = structlog.get_logger(__name__)


class SwarmPort(Protocol):
    """What the routes need of the running coordinator; see `ares_coordinator.gateway`."""

    network: NetworkRef

    def now_ms(self) -> int:
        """Return the wall time."""
        ...

    async def submit(self, envelope: Envelope, worker: PeerId) -> Envelope:
        """Return the acknowledgement of a worker's message."""
        ...

    async def read_records(self, keys: Sequence[str]) -> dict[str, FoundValue]:
        """Return what lies in the DHT under each key."""
        ...

    async def watch(self, wishes: Sequence[Wish], wait_s: float, worker: PeerId) -> list[News]:
        """Return what differs from what a worker has, within a time."""
        ...

    async def store_record(
        self, key: str, subkey: str | None, value: bytes, expiration_s: float, *, worker: PeerId
    ) -> bool:
        """Store a worker's own value in the DHT."""
        ...

    async def blob_size(self, blob_id: Digest) -> int:
        """Return the size of a blob that is served."""
        ...

    def chunk_list(self, remote: PeerId, blob_id: Digest) -> AsyncGenerator[bytes, None]:
        """Yield a blob's chunk list."""
        ...

    def chunks(
        self, remote: PeerId, blob_id: Digest, *, first: int, count: int
    ) -> AsyncGenerator[bytes, None]:
        """Yield some of a blob's chunks."""
        ...

    def uploading(self, worker: PeerId) -> AbstractContextManager[None]:
        """Bound what is sent here at a time."""
        ...

    async def begin_upload(self, worker: PeerId, blob_id: Digest, encoded: bytes) -> Handover:
        """Return what is missing of a blob that a worker has committed to."""
        ...

    async def add_chunks(
        self, worker: PeerId, blob_id: Digest, first: int, data: bytes
    ) -> Handover:
        """Take some chunks of it."""
        ...


@dataclass(frozen=True, slots=True)
class SwarmRoutes:
    """The HTTPS way of one coordinator."""

    port: SwarmPort

    def routes(self) -> list[web.RouteDef]:
        """Return what to add to a router."""
        return [
            web.get("/swarm/time", self.time),
            web.get("/swarm/records", self.records),
            web.put("/swarm/records", self.store_record),
            web.get("/swarm/watch", self.watch),
            web.post("/swarm/register", self.register),
            web.post("/swarm/training/gradient", self.commit),
            web.put("/swarm/training/gradient/{blob}", self.begin_upload),
            web.put("/swarm/training/gradient/{blob}/{chunk}", self.add_chunks),
            web.post("/swarm/audits/report", self.report),
            web.get("/swarm/blobs/{blob}/chunks", self.chunk_list),
            web.get("/swarm/blobs/{blob}", self.blob),
        ]

    async def time(self, request: web.Request) -> web.Response:
        """The coordinator's clock, and which network answers."""
        network = self.port.network
        reply = TimeReply(
            now_ms=self.port.now_ms(),
            network_id=network.network_id,
            coordinator=network.coordinator,
        )
        return json_reply(request, reply)

    # --- records -------------------------------------------------------------------------------

    async def records(self, request: web.Request) -> web.Response:
        """What lies under one to sixteen keys."""
        worker_of(request)
        keys = request.query.getall("key", [])
        if not 0 < len(keys) <= MAX_KEYS:
            raise BadParameter(f"key: {len(keys)} of them, 1 to {MAX_KEYS} expected")
        found = await self.port.read_records(keys)
        rows = [RecordRow(**row) for key in found for row in found_rows(key, found[key])]
        return json_reply(request, RecordsReply(records=rows))

    async def watch(self, request: web.Request) -> web.Response:
        """What the coordinator signs next under some keys; each `known` belongs to a `key`."""
        worker = worker_of(request)
        keys, known = (request.query.getall(name, []) for name in ("key", "known"))
        if len(keys) != len(known):
            raise BadParameter(f"known: {len(known)} of them, one for each of {len(keys)} keys")
        wait_s = plain_number(request.query.get("wait", "0"))
        wishes = [
            Wish(key, digest_of(text) if text else NOTHING)
            for key, text in zip(keys, known, strict=True)
        ]
        news = await self.port.watch(wishes, wait_s, worker)
        rows = [
            NewsRow(
                key=item.key,
                payload_sha256=item.payload_sha256.hex(),
                value=encode_bytes(item.value),
                expiration_s=item.expiration_s,
            )
            for item in news
        ]
        return json_reply(request, NewsReply(news=rows))

    async def store_record(self, request: web.Request) -> web.Response:
        """A value for the sender's own subkey."""
        worker = worker_of(request)
        body = await json_body(request, RecordBody, max_bytes=MAX_STORE_BYTES)
        value = decode_bytes(body.value, max_bytes=MAX_RECORD_BYTES)
        stored = await self.port.store_record(
            body.key, body.subkey, value, body.expiration_s, worker=worker
        )
        return json_reply(request, StoredReply(stored=stored))

    # --- messages ------------------------------------------------------------------------------

    async def register(self, request: web.Request) -> web.Response:
        """A worker says that it is there."""
        return await self._submit(request, PeerStatus)

    async def commit(self, request: web.Request) -> web.Response:
        """A worker commits to its contribution."""
        return await self._submit(request, Commit)

    async def report(self, request: web.Request) -> web.Response:
        """An auditor reports a replay."""
        return await self._submit(request, AuditReport)

    async def _submit(self, request: web.Request, cls: type[Payload]) -> web.Response:
        worker = worker_of(request)
        body = await json_body(request, MessageBody, max_bytes=MAX_MESSAGE_BYTES)
        envelope = decode_envelope(decode_bytes(body.envelope, max_bytes=MAX_ENVELOPE_BYTES))
        if class_of(envelope) is not cls:
            raise PayloadMalformed(f"a signed {cls.__name__} belongs here")
        ack = await self.port.submit(envelope, worker)
        reply = AckReply(worker_id=worker, ack=encode_bytes(encode_envelope(ack)))
        return json_reply(request, reply)

    # --- contributions -------------------------------------------------------------------------

    async def begin_upload(self, request: web.Request) -> web.Response:
        """The chunk list of a committed blob; the reply says which chunks are missing."""
        worker, blob_id = worker_of(request), digest_of(request.match_info["blob"])
        with self.port.uploading(worker):
            encoded = await signed_body(request, max_bytes=MAX_CHUNK_LIST_BYTES)
            handover = await self.port.begin_upload(worker, blob_id, encoded)
        return json_reply(request, _upload_reply(handover))

    async def add_chunks(self, request: web.Request) -> web.Response:
        """Whole chunks, in order, from the one that the path names on."""
        worker, blob_id = worker_of(request), digest_of(request.match_info["blob"])
        first = plain_number(request.match_info["chunk"])
        with self.port.uploading(worker):
            data = await signed_body(request, max_bytes=MAX_UPLOAD_BYTES)
            handover = await self.port.add_chunks(worker, blob_id, first, data)
        return json_reply(request, _upload_reply(handover))

    # --- blobs ---------------------------------------------------------------------------------

    async def chunk_list(self, request: web.Request) -> web.Response:
        """A blob's chunk list: what its id is the hash of."""
        worker, blob_id = worker_of(request), digest_of(request.match_info["blob"])
        async with aclosing(self.port.chunk_list(worker, blob_id)) as pieces:
            data = b"".join([piece async for piece in pieces])
        return web.Response(body=data, content_type="application/octet-stream")

    async def blob(self, request: web.Request) -> web.StreamResponse:
        """A blob's bytes, or a range of them."""
        worker, blob_id = worker_of(request), digest_of(request.match_info["blob"])
        size = await self.port.blob_size(blob_id)
        start, end, status = _range_of(request, size)
        response = web.StreamResponse(status=status)
        response.content_type = "application/octet-stream"
        response.content_length = end - start
        response.headers[hdrs.ACCEPT_RANGES] = "bytes"
        if status == HTTPStatus.PARTIAL_CONTENT:
            response.headers[hdrs.CONTENT_RANGE] = f"bytes {start}-{end - 1}/{size}"
        pieces = self._bytes(worker, blob_id, start, end)
        async with aclosing(pieces):
            first = await anext(pieces, b"")  # what is refused is refused before the head is sent
            await response.prepare(request)
            try:
                await _write(response, first)
                async for piece in pieces:
                    await _write(response, piece)
            except (AresError, TimeoutError) as fault:  # the head is out: only a cut tells
                log.warning("blob_cut", blob=blob_id.hex()[:12], why=str(fault))
                if request.transport is not None:
                    request.transport.abort()
        return response

    async def _bytes(
        self, worker: PeerId, blob_id: Digest, start: int, end: int
    ) -> AsyncGenerator[bytes, None]:
        """Yield bytes `start` to `end` of a blob, from verified chunks."""
        index, last = start // CHUNK_BYTES, -(-end // CHUNK_BYTES)
        position = index * CHUNK_BYTES
        while index < last:
            count = min(MAX_CHUNKS_PER_REQUEST, last - index)
            chunks = self.port.chunks(worker, blob_id, first=index, count=count)
            async with aclosing(chunks):
                async for piece in chunks:
                    wanted = piece[max(0, start - position) : max(0, end - position)]
                    position += len(piece)
                    if wanted:
                        yield wanted
            index += count


async def _write(response: web.StreamResponse, piece: bytes) -> None:
    async with asyncio.timeout(STALL_S):
        await response.write(piece)


def _range_of(request: web.Request, size: int) -> tuple[int, int, int]:
    """Return where to begin, where to end, and the status that says so.

    Raises: PayloadMalformed: no single range from one byte of the blob on.
    """
    text = request.headers.get(hdrs.RANGE)
    if text is None:
        return 0, size, HTTPStatus.OK
    found = _RANGE.fullmatch(text.strip())
    if found is None:
        raise PayloadMalformed("a range `bytes=first-last` expected")
    start = int(found[1])
    end = size if found[2] is None else min(size, int(found[2]) + 1)
    if start >= end:
        raise PayloadMalformed(f"a range that begins before byte {size} expected")
    return start, end, HTTPStatus.PARTIAL_CONTENT


def _upload_reply(handover: Handover) -> UploadReply:
    return UploadReply(complete=handover.is_complete, missing=list(handover.missing))
