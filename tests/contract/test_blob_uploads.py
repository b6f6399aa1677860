"""What a node learns of its own line by serving blobs, whoever asks and however often."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from ares_p2p.ids import PeerId
from ares_p2p.network.blob_store import BlobStore
from ares_p2p.network.blobs import Blobs
from ares_p2p.network.blobs_memory import InMemoryBlobNetwork, InMemoryBlobs
from ares_p2p.network.uploads import UploadMeter
from netfixtures import ALICE, BOB, COORDINATOR

MB = 1_000_000


class ShapedNetwork(InMemoryBlobNetwork):
    """Every piece takes time on the one line that everybody's pieces go over."""

    def __init__(self, bytes_per_s: float) -> None:
        super().__init__()
        self.bytes_per_s = bytes_per_s
        self.now_s = 0.0

    async def relay(
        self, source: PeerId, pieces: AsyncGenerator[bytes, None]
    ) -> AsyncGenerator[bytes, None]:
        async for piece in InMemoryBlobNetwork.relay(self, source, pieces):
            self.now_s += len(piece) / self.bytes_per_s
            yield piece


async def fetch(blobs: Blobs, blob_id: bytes) -> None:
    await blobs.fetch(blob_id, sources=[COORDINATOR.peer_id], max_bytes=40 * MB, timeout_s=30.0)


async def test_serving_measures_the_line_and_idle_hours_do_not(tmp_path: Path) -> None:
    network = ShapedNetwork(2.5e6)
    carol, alice, bob = (
        InMemoryBlobs(network, peer_id=who.peer_id, store=BlobStore(tmp_path / who.peer_id))
        for who in (COORDINATOR, ALICE, BOB)
    )
    carol.traffic.upload = meter = UploadMeter(monotonic=lambda: network.now_s)
    await fetch(alice, carol.store.put(os.urandom(MB)))
    assert meter.bytes_per_s == 0  # too short to tell a line from a buffer
    for _ in range(2):
        blob_id = carol.store.put(os.urandom(12 * MB))
        await fetch(alice, blob_id)
        await fetch(bob, blob_id)
        network.now_s += 3600.0
    assert meter.bytes_per_s == pytest.approx(2.5e6, rel=0.15)
    assert carol.traffic.up_bytes > 48 * MB
