"""Blobs over the node's P2P: two streaming calls, the same for whoever serves.

An error ends a stream with a message that carries its code. hivemind puts the servicer's class
name into the protocol's name: another version is another class.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, AsyncIterator  # noqa: UP035  (hivemind reads this very annotation)

from google.protobuf.message import DecodeError
from hivemind.p2p import P2PContext, PeerID, ServicerBase
from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError, P2PHandlerError

from ares_p2p.errors import AresError, BlobUnavailable, PayloadMalformed, RpcTimeout
from ares_p2p.ids import Digest, PeerId
from ares_p2p.network.blob_serve import PIECE_BYTES, BlobServer, ServeLimits
from ares_p2p.network.blob_store import BlobStore
from ares_p2p.network.blobs import BlobExchange
from ares_p2p.network.node_base import NodeBase
from ares_p2p.network.remote_errors import error_of_code
from ares_p2p.wire.v1 import ares_pb2 as pb

STALL_TIMEOUT_S = 20.0  # a remote that takes nothing for so long loses its stream
OPEN_TIMEOUT_S = 15.0  # to find a peer's address, dial it and open a stream


class AresBlobsV1(ServicerBase):  # type: ignore[misc]
    """Serves the blobs of this node."""

    def __init__(self, server: BlobServer) -> None:
        self._server = server

    async def rpc_chunk_list(
        self, request: pb.ChunkListRequest, context: P2PContext
    ) -> AsyncIterator[pb.Piece]:
        """Stream a blob's chunk list."""
        remote = PeerId(context.remote_id.to_base58())
        async for piece in _with_codes(self._server.chunk_list(remote, request.blob_id)):
            yield piece

    async def rpc_chunks(
        self, request: pb.ChunkRequest, context: P2PContext
    ) -> AsyncIterator[pb.Piece]:
        """Stream some of a blob's chunks."""
        remote = PeerId(context.remote_id.to_base58())
        pieces = self._server.chunks(
            remote, request.blob_id, first=request.first_chunk, count=request.chunks
        )
        async for piece in _with_codes(pieces):
            yield piece


async def _with_codes(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[pb.Piece, None]:
    """Yield pieces as messages; an error becomes the last one.

    While hivemind sends a message, a timer runs: nobody may keep a stream by reading nothing.
    """
    loop, sending = asyncio.get_running_loop(), asyncio.current_task()
    assert sending is not None
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                timer = loop.call_later(STALL_TIMEOUT_S, sending.cancel)
                try:
                    yield pb.Piece(data=piece)
                finally:
                    timer.cancel()
    except AresError as error:
        yield pb.Piece(code=error.code)


class HivemindBlobTransport:
    """Opens streams to peers."""

    def __init__(self, node: NodeBase) -> None:
        self._node = node

    def chunk_list(self, source: PeerId, blob_id: Digest) -> AsyncGenerator[bytes, None]:
        """Yield the chunk list's bytes."""
        return self._stream(source, "rpc_chunk_list", pb.ChunkListRequest(blob_id=blob_id))

    def chunks(
        self, source: PeerId, blob_id: Digest, *, first: int, count: int
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of some chunks."""
        request = pb.ChunkRequest(blob_id=blob_id, first_chunk=first, chunks=count)
        return self._stream(source, "rpc_chunks", request)

    async def _stream(
        self, source: PeerId, method: str, request: Any
    ) -> AsyncGenerator[bytes, None]:
        """Yield what a peer streams, in messages of a bounded size.

        Raises: RpcTimeout: it cannot be reached. PayloadMalformed: it sends something else.
            What its last message names.
        """
        stub = AresBlobsV1.get_stub(self._node.p2p, PeerID.from_base58(source))
        try:
            stream = await self._node.call(getattr(stub, method)(request), timeout_s=OPEN_TIMEOUT_S)
            async with aclosing(stream):
                async for message in stream:
                    if message.code:
                        raise error_of_code(message.code, _REASONS.get(message.code, ""))
                    if not 0 < len(message.data) <= PIECE_BYTES:
                        raise PayloadMalformed(f"message of {len(message.data)} bytes")
                    yield message.data
            self._node.check_alive()  # or else this end means nothing
        except (P2PDaemonError, P2PHandlerError, OSError, EOFError) as error:
            self._node.check_alive()
            raise RpcTimeout(f"it cannot be reached: {type(error).__name__}") from error
        except (DecodeError, TypeError, ValueError) as error:
            raise PayloadMalformed("it does not speak this protocol") from error


_REASONS = {BlobUnavailable.code: "it does not hold the blob"}


class HivemindBlobs(BlobExchange):
    """One node's blobs: fetching, and serving once `open` was called."""

    def __init__(self, node: NodeBase, store: BlobStore, limits: ServeLimits) -> None:
        super().__init__(store, HivemindBlobTransport(node), me=node.identity.peer_id)
        self._node = node
        self._servicer = AresBlobsV1(BlobServer(store, self.traffic, limits))

    async def open(self) -> None:
        """Register with p2pd."""
        await self._servicer.add_p2p_handlers(self._node.p2p)
