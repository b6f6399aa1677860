"""Signed records and dataset chunks in the DHT: the interface that the roles program against.

`HivemindRecords` (the DHT) and `InMemoryRecords` (simulations) fulfil it with the same code over
two transports, and pass the same tests.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ares_p2p.crypto.envelope import Envelope
from ares_p2p.domain import Payload
from ares_p2p.ids import Digest, PeerId
from ares_p2p.network.record_rules import PlainValue

P = TypeVar("P", bound=Payload)
ReadChunk = Callable[[Digest], bytes | None]


@dataclass(frozen=True, slots=True)
class Verified(Generic[P]):
    """A payload whose signature, signer and network fit, and the envelope it came in."""

    payload: P
    envelope: Envelope

    @property
    def signer(self) -> PeerId:
        """Who signed it."""
        return self.envelope.signer


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that was found but not believed, and why."""

    peer: str
    code: str
    message: str


class Records(Protocol):
    """What lies in the DHT.

    Attributes:
        refused: the latest records that were not believed.
        refused_counts: how many there were so far, by error code.
    """

    refused: deque[Refused]
    refused_counts: Counter[str]

    async def publish(self, envelope: Envelope, *, keep: bool = True) -> None:
        """Store an envelope under the key that its payload gives, and check that it is there.

        Args:
            keep: store it again every third of its lifetime, until a newer one takes its place.
        Raises: PeerFault (its kinds): no node would accept it. StaleSequence: a newer one is
            there. RecordUnavailable: it did not land.
        """
        ...

    async def fetch(
        self,
        cls: type[P],
        *,
        cycle: int = 0,
        round: int = 0,  # noqa: A002 (the protocol's word)
    ) -> Verified[P] | None:
        """Return the newest valid record of a coordinator's kind, None when there is none.

        An older (cycle, seq) than one seen before is counted as refused, and the newer one is
        returned. What the kind's key does not name (see `record_keys`) is ignored.
        Raises: RpcTimeout, NodeDied.
        """
        ...

    def believe(self, key: str, value: PlainValue) -> Verified[Payload] | None:
        """Return the newest record under a coordinator's key, after verifying a value for it.

        It is verified as if the DHT had brought it; None: refused, and nothing is known.
        """
        ...

    async def fetch_peers(
        self,
        cls: type[P],
        *,
        cycle: int = 0,
        round: int = 0,  # noqa: A002 (the protocol's word)
    ) -> list[Verified[P]]:
        """Return every peer's valid record of a peers' kind (Commit, PeerStatus), by peer id.

        Raises: RpcTimeout, NodeDied.
        """
        ...

    async def publish_chunk(self, data: bytes, *, keep: bool = True) -> Digest:
        """Store a chunk of at most 48 KiB under its sha256; `keep` holds it in memory.

        Raises: Oversize, RecordUnavailable.
        """
        ...

    async def fetch_chunk(self, digest: Digest) -> bytes:
        """Return the chunk with this sha256.

        Raises: RecordUnavailable: nobody has it.
        """
        ...

    async def fetch_chunks(self, digests: Sequence[Digest]) -> list[bytes]:
        """Return the chunks in this order, several at a time.

        Raises: RecordUnavailable: one of them is nowhere.
        """
        ...

    def hold_chunks(self, digests: Sequence[Digest], read: ReadChunk) -> None:
        """Look after these chunks: when one is about to expire, store what `read` returns.

        `read` runs in a thread and returns None for what it does not have any more.
        """
        ...

    async def republish_due(self) -> int:
        """Store again what is due; return how many. Called by the node; by hand in simulations."""
        ...
