"""Who may write what into the DHT: the rules that every node applies to every value.

A value is one tag byte and a content:

- `C` + a chunk of at most 48 KiB: anyone may store it, under the key that its sha256 gives;
- `E` + a StoredEnvelope: a signed payload and a *lease*. The payload's kind, cycle, round and
  signer give the only key (and subkey) it may lie under. The lease is a signature over key,
  subkey, expiration and envelope by the payload's signer or by the coordinator: hivemind keeps
  the value that expires later, so without it anyone could make an old record outlive a new one.

Everything raises a coded PeerFault. What is not refused here: an older `seq` (that needs memory,
see `record_guard`) and expired values (hivemind drops them itself). Pure.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from ares_p2p.crypto.envelope import Envelope
from ares_p2p.crypto.keys import Identity, check_signature
from ares_p2p.domain import NetworkDescriptor, Payload
from ares_p2p.errors import (
    EnvelopeMalformed,
    HashMismatch,
    Oversize,
    PayloadMalformed,
    WrongNetwork,
    WrongSigner,
)
from ares_p2p.ids import Digest, peer_id_of, sha256
from ares_p2p.network.invite import NetworkRef, network_id_of
from ares_p2p.network.record_keys import (
    CHUNK_LIFETIME_S,
    MAX_CHUNK_BYTES,
    MAX_RECORD_BYTES,
    RecordKey,
    dht_id_of,
    key_of_chunk,
    key_of_payload,
    record_kind,
)
from ares_p2p.wire.codec import (
    class_of,
    decode_envelope,
    encode_envelope,
    open_envelope,
)
from ares_p2p.wire.v1 import ares_pb2 as pb

CHUNK_TAG = b"C"
ENVELOPE_TAG = b"E"
MAX_VALUE_BYTES = max(MAX_CHUNK_BYTES + 1, MAX_RECORD_BYTES)
MAX_SKEW_S = 30.0  # ten times hivemind's own tolerance between clocks

PlainValue = tuple[bytes, float]  # a value without hivemind's wrapping, and its expiration
FoundValue = PlainValue | dict[str, PlainValue] | None  # plain, dictionary of subkeys, nothing


@dataclass(frozen=True, slots=True)
class RawRecord:
    """A value as a node is handed it, from whom does not matter.

    Attributes:
        dht_id: 20 bytes, the hash of the key.
        subkey: the subkey's peer id text, or None for a plain value.
        value: tag and content.
        expiration_s: seconds since the epoch.
    """

    dht_id: bytes
    subkey: str | None
    value: bytes
    expiration_s: float


@dataclass(frozen=True, slots=True)
class CheckedEnvelope:
    """A record that passed the rules, and its payload."""

    key: RecordKey
    envelope: Envelope
    payload: Payload


@dataclass(frozen=True, slots=True)
class CheckedChunk:
    """A chunk that hashes to its key."""

    key: RecordKey
    sha256: Digest
    data: bytes


def lease_message(dht_id: bytes, subkey: str | None, expiration_s: float, envelope: bytes) -> bytes:
    """Return what a lease signs; every part has a fixed length."""
    place = sha256((subkey or "").encode())
    return b"ares-lease-v1\0" + dht_id + place + struct.pack(">d", expiration_s) + sha256(envelope)


def encode_stored_envelope(
    envelope: Envelope, key: RecordKey, *, publisher: Identity, expiration_s: float
) -> bytes:
    """Return the DHT value of `envelope`, leased by `publisher` until `expiration_s`.

    Raises: Oversize.
    """
    data = encode_envelope(envelope)
    message = lease_message(dht_id_of(key.key), key.subkey, expiration_s, data)
    stored = pb.StoredEnvelope(
        envelope=data, publisher=publisher.public_key, lease=publisher.sign(message)
    )
    return ENVELOPE_TAG + stored.SerializeToString(deterministic=True)


def encode_chunk(data: bytes) -> bytes:
    """Return the DHT value of a chunk.

    Raises: Oversize.
    """
    if len(data) > MAX_CHUNK_BYTES:
        raise Oversize(f"chunk of {len(data)} bytes, at most {MAX_CHUNK_BYTES}")
    return CHUNK_TAG + data


def _check_lifetime(record: RawRecord, *, now_s: float, lifetime_s: float) -> None:
    latest = now_s + lifetime_s + MAX_SKEW_S
    if not math.isfinite(record.expiration_s) or record.expiration_s > latest:
        ahead = record.expiration_s - now_s
        raise PayloadMalformed(f"expires {ahead:.0f} s ahead, at most {lifetime_s:.0f} s allowed")


def _check_chunk(record: RawRecord, network: NetworkRef, now_s: float) -> CheckedChunk:
    data = record.value[1:]
    if len(data) > MAX_CHUNK_BYTES:
        raise Oversize(f"chunk of {len(data)} bytes, at most {MAX_CHUNK_BYTES}")
    _check_lifetime(record, now_s=now_s, lifetime_s=CHUNK_LIFETIME_S)
    digest = sha256(data)
    key = key_of_chunk(digest, network_id=network.network_id)
    if record.subkey is not None or dht_id_of(key) != record.dht_id:
        raise HashMismatch(f"chunk {digest.hex()[:12]} does not hash to the key it lies under")
    return CheckedChunk(RecordKey(key), digest, data)


def _check_content(payload: Payload, network: NetworkRef) -> None:
    """Refuse a descriptor that names another network than the one it is signed into."""
    if not isinstance(payload, NetworkDescriptor):
        return
    named = network_id_of(payload.coordinator, payload.name)
    if payload.coordinator != network.coordinator or named != network.network_id:
        raise WrongNetwork("the descriptor's coordinator and name give another network id")


def _check_stored(record: RawRecord, network: NetworkRef, now_s: float) -> CheckedEnvelope:
    stored = pb.StoredEnvelope()
    try:
        stored.ParseFromString(record.value[1:])
    except (DecodeError, UnicodeDecodeError) as error:
        raise EnvelopeMalformed("the value is no stored envelope") from error
    envelope = decode_envelope(stored.envelope)
    cls = class_of(envelope)
    kind = record_kind(cls)
    if len(record.value) > kind.max_bytes:
        raise Oversize(f"{cls.__name__} of {len(record.value)} bytes, at most {kind.max_bytes}")
    _check_lifetime(record, now_s=now_s, lifetime_s=kind.lifetime_s)
    signer = None if kind.by_peers else network.coordinator
    payload = open_envelope(envelope, cls, signer=signer, network_id=network.network_id)
    _check_content(payload, network)
    key = key_of_payload(payload, signer=envelope.signer)
    if record.subkey != key.subkey:
        raise WrongSigner(f"{envelope.signer} may not write subkey {str(record.subkey)[:60]!r}")
    if dht_id_of(key.key) != record.dht_id:
        raise PayloadMalformed(f"the record belongs under {key.key}, it came under another key")
    if peer_id_of(stored.publisher) not in (envelope.signer, network.coordinator):
        raise WrongSigner("leased by neither its signer nor the coordinator")
    message = lease_message(record.dht_id, record.subkey, record.expiration_s, stored.envelope)
    check_signature(stored.publisher, message, stored.lease)
    return CheckedEnvelope(key, envelope, payload)


def check_record(
    record: RawRecord, *, network: NetworkRef, now_s: float
) -> CheckedEnvelope | CheckedChunk:
    """Return what a value holds, after every rule of this module.

    Raises: Oversize, PayloadMalformed, EnvelopeMalformed, WrongSigner, WeakKey, BadSignature,
        WrongNetwork, HashMismatch.
    """
    if len(record.value) > MAX_VALUE_BYTES:
        raise Oversize(f"value of {len(record.value)} bytes, at most {MAX_VALUE_BYTES}")
    tag = record.value[:1]
    if tag == CHUNK_TAG:
        return _check_chunk(record, network, now_s)
    if tag == ENVELOPE_TAG:
        return _check_stored(record, network, now_s)
    raise EnvelopeMalformed(f"unknown tag {tag!r}")
