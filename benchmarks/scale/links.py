"""Lines between simulated peers: rates up and down, delays, and what went over them.

Every byte of a blob counts `scale` times, in time and in the books: at 1 blobs are what they are.
Messages to the coordinator and records count as they are. A line sends its pieces one after another, in the order in which they came, whoever
they are for.

The DHT is one dictionary. A call takes as long as hivemind's does (HIVEMIND.md, 32 nodes) on top of
the line's delay; a record that is stored counts for every replica, a read once. What the nodes
that hold a key have to answer is counted per key: `reads`.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from ares_p2p.clock import Clock
from ares_p2p.crypto.envelope import Envelope
from ares_p2p.ids import Digest, PeerId
from ares_p2p.network.blob_serve import PIECE_BYTES, BlobServer
from ares_p2p.network.blobs_memory import InMemoryBlobNetwork, Misbehaviour
from ares_p2p.network.control import SUBMIT_TIMEOUT_S, InMemoryControl
from ares_p2p.network.invite import NetworkRef
from ares_p2p.network.record_keys import RecordKey
from ares_p2p.network.record_rules import FoundValue
from ares_p2p.network.records_memory import InMemoryNetwork
from ares_p2p.wire.codec import encode_envelope

STORE_S, GET_S = 0.057, 0.009  # medians of 10 kB in hivemind's DHT on loopback
REPLICAS = 5  # hivemind's
SPLIT = 16  # pieces of a played piece at most: so finely do transfers share a line


@dataclass(slots=True)
class Line:
    """One peer's line, and the bytes that went over it."""

    up_bytes_per_s: float
    down_bytes_per_s: float
    delay_s: float
    blobs_up: float = 0.0
    blobs_down: float = 0.0
    records_up: int = 0
    records_down: int = 0
    messages_up: int = 0
    messages_down: int = 0
    _up_free_s: float = 0.0
    _down_free_s: float = 0.0

    @property
    def up(self) -> float:
        """Bytes sent."""
        return self.blobs_up + self.records_up + self.messages_up

    @property
    def down(self) -> float:
        """Bytes received."""
        return self.blobs_down + self.records_down + self.messages_down

    def takes_until_s(self, other: Line, size_bytes: float, *, now_s: float) -> float:
        """Book a piece from here to `other`; return when it is there."""
        self._up_free_s = max(now_s, self._up_free_s) + size_bytes / self.up_bytes_per_s
        here_s = max(self._up_free_s, other._down_free_s + size_bytes / other.down_bytes_per_s)
        other._down_free_s = here_s
        self.blobs_up += size_bytes
        other.blobs_down += size_bytes
        return here_s + self.delay_s + other.delay_s


@dataclass(slots=True)
class Lines:
    """Everybody's line."""

    scale: float = 1.0  # of a blob's bytes
    of: dict[PeerId, Line] = field(default_factory=dict)


class _NotingServer:
    """A peer's server, which notes whose pieces are whose: a relay sees only pieces."""

    def __init__(self, server: BlobServer, asked: dict[int, Digest]) -> None:
        self._server = server
        self._asked = asked

    def chunk_list(self, remote: PeerId, blob_id: Digest) -> AsyncGenerator[bytes, None]:
        return self._server.chunk_list(remote, blob_id)

    def chunks(
        self, remote: PeerId, blob_id: Digest, *, first: int, count: int
    ) -> AsyncGenerator[bytes, None]:
        pieces = self._server.chunks(remote, blob_id, first=first, count=count)
        self._asked[id(pieces)] = blob_id
        return pieces


class _Servers(dict[PeerId, BlobServer]):
    """The shared servers; what is asked of one is noted by the view that asks."""

    def __init__(self, shared: dict[PeerId, BlobServer], view: BlobsAsSeenBy) -> None:
        super().__init__()
        self._shared = shared
        self._view = view

    def get(self, key: PeerId, default: Any = None) -> Any:
        server = self._shared.get(key)
        return default if server is None else _NotingServer(server, self._view.asked)

    def __setitem__(self, key: PeerId, server: BlobServer) -> None:
        self._shared[key] = server


class BlobsAsSeenBy(InMemoryBlobNetwork):
    """The shared blob network, as one peer's requests reach it.

    Args:
        sent: bytes by source and blob, of the sources that are in it.
    """

    def __init__(
        self,
        shared: InMemoryBlobNetwork,
        lines: Lines,
        me: PeerId,
        sent: dict[PeerId, Counter[Digest]],
    ) -> None:
        self.servers: dict[PeerId, BlobServer] = _Servers(shared.servers, self)
        self.misbehaviour: dict[PeerId, Misbehaviour] = shared.misbehaviour
        self.asked: dict[int, Digest] = {}
        self._lines = lines
        self._me = me
        self._sent = sent

    async def relay(
        self, source: PeerId, pieces: AsyncGenerator[bytes, None]
    ) -> AsyncGenerator[bytes, None]:
        """Yield what `source` serves, when it has come over both lines."""
        loop, blob_id = asyncio.get_running_loop(), self.asked.pop(id(pieces), None)
        sender, receiver = self._lines.of[source], self._lines.of[self._me]
        await asyncio.sleep(sender.delay_s + receiver.delay_s)  # the request's own way
        served = InMemoryBlobNetwork.relay(self, source, pieces)
        async with aclosing(served):
            async for piece in served:
                played = len(piece) * self._lines.scale
                if blob_id is not None and source in self._sent:
                    self._sent[source][blob_id] += round(played)
                share = min(SPLIT, math.ceil(played / PIECE_BYTES))
                step = math.ceil(len(piece) / share)
                for start in range(0, len(piece), step):
                    part = piece[start : start + step]
                    there_s = sender.takes_until_s(
                        receiver, len(part) * self._lines.scale, now_s=loop.time()
                    )
                    await asyncio.sleep(max(0.0, there_s - loop.time()))
                    yield part


class RecordsAsSeenBy(InMemoryNetwork):
    """The shared dictionary, as one peer reaches it."""

    def __init__(self, shared: InMemoryNetwork, line: Line, reads: Counter[str]) -> None:
        self.network: NetworkRef = shared.network
        self.clock: Clock = shared.clock
        self._shared = shared
        self._line = line
        self._reads = reads

    async def store(self, key: RecordKey, value: bytes, expiration_s: float) -> bool:
        """See the base class."""
        await asyncio.sleep(STORE_S + 2 * self._line.delay_s)
        self._line.records_up += REPLICAS * len(value)
        return await self._shared.store(key, value, expiration_s)

    async def get_many(self, keys: Sequence[str], *, latest: bool) -> dict[str, FoundValue]:
        """See the base class."""
        await asyncio.sleep(GET_S + 2 * self._line.delay_s)
        found = await self._shared.get_many(keys, latest=latest)
        for key, value in found.items():
            self._reads[key] += 1
            if isinstance(value, dict):
                self._line.records_down += sum(len(item[0]) for item in value.values())
            elif value is not None:
                self._line.records_down += len(value[0])
        return found


class PlayedControl(InMemoryControl):
    """Messages to the coordinator over lines."""

    lines: Lines

    async def submit(
        self, envelope: Envelope, *, to: PeerId, timeout_s: float = SUBMIT_TIMEOUT_S
    ) -> Envelope:
        """See `Control.submit`."""
        mine, theirs = self.lines.of[self._peer_id], self.lines.of[to]
        size = len(encode_envelope(envelope))
        mine.messages_up += size
        await asyncio.sleep(mine.delay_s + theirs.delay_s)
        theirs.messages_down += size
        answer = await InMemoryControl.submit(self, envelope, to=to, timeout_s=timeout_s)
        size = len(encode_envelope(answer))
        theirs.messages_up += size
        await asyncio.sleep(mine.delay_s + theirs.delay_s)
        mine.messages_down += size
        return answer
