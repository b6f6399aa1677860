"""Blobs without a network: peers of one simulation fetch from each other's stores.

The same download and the same server as over hivemind; only the stream between them is a
function call. Faults are played per peer, so that simulations can have liars and dying sources.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from enum import Enum, auto

from ares_p2p.errors import RpcTimeout
from ares_p2p.ids import Digest, PeerId
from ares_p2p.network.blob_serve import BlobServer, ServeLimits
from ares_p2p.network.blob_store import BlobStore
from ares_p2p.network.blobs import BlobExchange
from ares_p2p.network.uploads import UploadMeter


class Misbehaviour(Enum):
    """What a simulated source does instead of serving."""

    AWAY = auto()  # cannot be reached
    ENDS_EARLY = auto()  # its stream ends after the first piece
    LIES = auto()  # it flips a bit of every piece
    SILENT = auto()  # its stream never brings anything


class InMemoryBlobNetwork:
    """Who serves what to whom, and who misbehaves."""

    def __init__(self) -> None:
        self.servers: dict[PeerId, BlobServer] = {}
        self.misbehaviour: dict[PeerId, Misbehaviour] = {}

    async def relay(
        self, source: PeerId, pieces: AsyncGenerator[bytes, None]
    ) -> AsyncGenerator[bytes, None]:
        """Yield what `source` serves, as it (mis)behaves."""
        how = self.misbehaviour.get(source)
        if how is Misbehaviour.AWAY:
            raise RpcTimeout("it cannot be reached")
        if how is Misbehaviour.SILENT:
            await asyncio.get_running_loop().create_future()
        async with aclosing(pieces):
            async for piece in pieces:
                how = self.misbehaviour.get(source)
                if how is Misbehaviour.AWAY:
                    return
                yield bytes([piece[0] ^ 1]) + piece[1:] if how is Misbehaviour.LIES else piece
                if how is Misbehaviour.ENDS_EARLY:
                    return


class _Transport:
    def __init__(self, network: InMemoryBlobNetwork, me: PeerId) -> None:
        self._network = network
        self._me = me

    def _server(self, source: PeerId) -> BlobServer:
        server = self._network.servers.get(source)
        if server is None:
            raise RpcTimeout("it cannot be reached")
        return server

    async def chunk_list(self, source: PeerId, blob_id: Digest) -> AsyncGenerator[bytes, None]:
        pieces = self._server(source).chunk_list(self._me, blob_id)
        async with aclosing(self._network.relay(source, pieces)) as relayed:
            async for piece in relayed:
                yield piece

    async def chunks(
        self, source: PeerId, blob_id: Digest, *, first: int, count: int
    ) -> AsyncGenerator[bytes, None]:
        pieces = self._server(source).chunks(self._me, blob_id, first=first, count=count)
        async with aclosing(self._network.relay(source, pieces)) as relayed:
            async for piece in relayed:
                yield piece


class InMemoryBlobs(BlobExchange):
    """One simulated peer's blobs."""

    def __init__(
        self,
        network: InMemoryBlobNetwork,
        *,
        peer_id: PeerId,
        store: BlobStore,
        limits: ServeLimits | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(store, _Transport(network, peer_id), me=peer_id)
        self.traffic.upload = UploadMeter(monotonic=monotonic)
        network.servers[peer_id] = BlobServer(
            store, self.traffic, limits or ServeLimits(), monotonic=monotonic
        )
