"""Which record lies under which DHT key, who may write it, and how long it lives.

Every key follows from the record's own content: network, kind, cycle, round, signer. A validator
recomputes it, so nothing can be stored under a key that is not its own. What every peer writes
(commits, statuses) are dictionaries with one subkey per peer, spread over buckets, because one
dictionary travels as one message. Pure: hivemind's key hash is computed here, without hivemind.

Source: docs, the swarm protocol's "What lies in the DHT"; hivemind 1.1.12 `DHTID.generate`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum, auto

from ares_p2p.domain import (
    AuditPlan,
    Commit,
    CommitSet,
    CycleConfig,
    DatasetManifest,
    LedgerHead,
    NetworkDescriptor,
    Payload,
    PeerStatus,
    RoundManifest,
    RoundPlan,
    RoundSettlement,
)
from ares_p2p.errors import PayloadMalformed
from ares_p2p.ids import Digest, PeerId, sha256
from ares_p2p.wire.codec import MAX_ENVELOPE_BYTES, kind_of

MAX_CHUNK_BYTES = 48 * 1024  # one DHT value; hivemind is comfortable up to about 50 kB
MAX_RECORD_BYTES = MAX_ENVELOPE_BYTES + 256  # tag, lease, field headers
MAX_SUBKEYS = 128  # per dictionary: 2,048 statuses, 8,192 commits a round; 0.5 MB a message
CHUNK_LIFETIME_S = 2 * 3600.0  # every holder looks every third of it, so a chunk survives outages
COMMIT_BUCKETS = 64  # 1,024 peers: 16 commits a bucket, about 10 kB
STATUS_BUCKETS = 16  # 1,024 peers: 64 statuses a bucket, about 40 kB
DHT_ID_BYTES = 20


class Scope(Enum):
    """What a key names besides network and kind."""

    NETWORK = auto()
    CYCLE = auto()
    ROUND = auto()


@dataclass(frozen=True, slots=True)
class RecordKind:
    """Where one kind of payload lies.

    Attributes:
        scope: what its key names.
        buckets: 0 for one value signed by the coordinator; otherwise each peer writes its own
            subkey in one of this many dictionaries.
        lifetime_s: how long a stored record lives; its owner stores it again every third.
        max_bytes: of a value. A dictionary travels as one message of at most 4 MiB, several at
            a time: what peers write must be small.
    """

    scope: Scope
    buckets: int
    lifetime_s: float
    max_bytes: int = MAX_RECORD_BYTES

    @property
    def by_peers(self) -> bool:
        """Whether every peer writes one, each under its own subkey."""
        return self.buckets > 0


# A coordinator that restarts within the hour loses nothing; a peer that leaves is forgotten soon.
_HOUR_S = 3600.0
RECORD_KINDS: dict[type[Payload], RecordKind] = {
    NetworkDescriptor: RecordKind(Scope.NETWORK, 0, _HOUR_S),
    CycleConfig: RecordKind(Scope.NETWORK, 0, _HOUR_S),
    DatasetManifest: RecordKind(Scope.CYCLE, 0, _HOUR_S),
    RoundPlan: RecordKind(Scope.CYCLE, 0, _HOUR_S),
    CommitSet: RecordKind(Scope.ROUND, 0, _HOUR_S),
    RoundManifest: RecordKind(Scope.ROUND, 0, _HOUR_S),
    RoundSettlement: RecordKind(Scope.ROUND, 0, _HOUR_S),
    AuditPlan: RecordKind(Scope.ROUND, 0, _HOUR_S),
    LedgerHead: RecordKind(Scope.NETWORK, 0, _HOUR_S),
    Commit: RecordKind(Scope.ROUND, COMMIT_BUCKETS, 0.5 * _HOUR_S, max_bytes=2048),
    PeerStatus: RecordKind(Scope.NETWORK, STATUS_BUCKETS, 180.0, max_bytes=4096),
}


KINDS = {kind_of(cls): kind for cls, kind in RECORD_KINDS.items()}


@dataclass(frozen=True, slots=True)
class RecordKey:
    """A key of the DHT, and the subkey in its dictionary (None: a plain value)."""

    key: str
    subkey: PeerId | None = None


def record_kind(cls: type[Payload]) -> RecordKind:
    """Return where payloads of class `cls` lie.

    Raises: PayloadMalformed: they travel by other ways and are no DHT record.
    """
    kind = RECORD_KINDS.get(cls)
    if kind is None:
        raise PayloadMalformed(f"{cls.__name__} is no DHT record")
    return kind


def bucket_of(peer: PeerId, buckets: int) -> int:
    """Return the dictionary that a peer's subkey lies in."""
    return int.from_bytes(sha256(b"ares-bucket\0", peer.encode())[:8], "big") % buckets


def key_of_kind(
    cls: type[Payload],
    *,
    network_id: str,
    cycle: int = 0,
    round: int = 0,  # noqa: A002 (the protocol's word)
    bucket: int = 0,
) -> str:
    """Return the key of a kind; what its scope does not name is ignored."""
    kind = record_kind(cls)
    parts = ["ares", network_id, kind_of(cls)]
    if kind.scope is not Scope.NETWORK:
        parts.append(str(cycle))
    if kind.scope is Scope.ROUND:
        parts.append(str(round))
    if kind.by_peers:
        parts.append(f"b{bucket}")
    return "/".join(parts)


def key_of_payload(payload: Payload, *, signer: PeerId) -> RecordKey:
    """Return the only key under which this payload of this signer may lie."""
    cls, header = type(payload), payload.header
    kind = record_kind(cls)
    bucket = bucket_of(signer, kind.buckets) if kind.by_peers else 0
    key = key_of_kind(
        cls, network_id=header.network_id, cycle=header.cycle, round=header.round, bucket=bucket
    )
    return RecordKey(key, signer if kind.by_peers else None)


def is_signed_by_coordinator(key: str) -> bool:
    """Whether only the coordinator's records may lie under a key, one at a time."""
    parts = key.split("/")
    kind = KINDS.get(parts[2]) if len(parts) > 2 else None
    return kind is not None and not kind.by_peers


def key_of_chunk(digest: Digest, *, network_id: str) -> str:
    """Return the key of the chunk with this sha256."""
    return f"ares/{network_id}/chunk/{digest.hex()}"


def msgpack_text(text: str) -> bytes:
    """Return a short text in MessagePack: how hivemind writes keys and subkeys."""
    data = text.encode()
    if len(data) < 32:
        return bytes([0xA0 | len(data)]) + data
    if len(data) < 256:
        return bytes([0xD9, len(data)]) + data
    return b"\xda" + len(data).to_bytes(2, "big") + data


def dht_id_of(key: str) -> bytes:
    """Return the 20 bytes that hivemind makes of a key before any validator sees it."""
    return hashlib.sha1(msgpack_text(key), usedforsecurity=False).digest()
