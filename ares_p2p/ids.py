"""Names of things: peers, digests, blobs. Pure functions of bytes.

A *peer id* is the libp2p PeerID of an Ed25519 key. It embeds the public key, so whoever holds the
id can check a signature. A *blob id* is the sha256 of the blob's chunk list (its size, then the
sha256 of every `CHUNK_BYTES` of it): every chunk can be verified on its own once the list fits.

Source: libp2p peer id specification (identity multihash of the protobuf-encoded public key).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NewType

from ares_p2p.errors import HashMismatch, PayloadMalformed

PeerId = NewType("PeerId", str)  # base58btc text, "12D3KooW..."
Digest = bytes  # sha256, 32 bytes

DIGEST_BYTES = 32
PUBLIC_KEY_BYTES = 32
CHUNK_BYTES = 256 * 1024  # one verified unit of transfer; 47 MB blob = 180 hashes = 5.8 kB of list
CHUNK_LIST_MAGIC = b"ARESBLB1"
MAX_BLOB_BYTES = 4 * 1024**3  # the chunk list stays under 512 KiB

# identity multihash (0x00), length 36, protobuf PublicKey{type=Ed25519(1), data=32 bytes}
_PEER_ID_PREFIX = bytes([0x00, 0x24, 0x08, 0x01, 0x12, 0x20])
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE58_INDEX = {char: value for value, char in enumerate(_BASE58)}


def sha256(*parts: bytes | memoryview) -> Digest:
    """Return the sha256 of the concatenation of `parts`."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


def base58_encode(data: bytes) -> str:
    """Return `data` in base58btc."""
    number = int.from_bytes(data, "big")
    text = ""
    while number:
        number, remainder = divmod(number, 58)
        text = _BASE58[remainder] + text
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + text


def base58_decode(text: str) -> bytes:
    """Return the bytes of base58btc `text`.

    Raises: PayloadMalformed: a character outside the alphabet, or more than 128 characters.
    """
    if len(text) > 128:
        raise PayloadMalformed(f"base58 text of {len(text)} characters, at most 128 expected")
    number = 0
    for char in text:
        if char not in _BASE58_INDEX:
            raise PayloadMalformed(f"{char!r} is no base58 character")
        number = number * 58 + _BASE58_INDEX[char]
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")


def peer_id_of(public_key: bytes) -> PeerId:
    """Return the peer id that embeds a 32-byte Ed25519 public key."""
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise PayloadMalformed(f"public key of {len(public_key)} bytes, 32 expected")
    return PeerId(base58_encode(_PEER_ID_PREFIX + public_key))


def public_key_of(peer_id: str) -> bytes:
    """Return the 32-byte Ed25519 public key inside `peer_id`.

    Raises: PayloadMalformed: not an Ed25519 peer id.
    """
    raw = base58_decode(peer_id)
    if len(raw) != len(_PEER_ID_PREFIX) + PUBLIC_KEY_BYTES or not raw.startswith(_PEER_ID_PREFIX):
        raise PayloadMalformed(f"{peer_id[:60]!r} is no Ed25519 peer id")
    return raw[len(_PEER_ID_PREFIX) :]


@dataclass(frozen=True, slots=True)
class ChunkList:
    """What a blob consists of: its size and the sha256 of every chunk."""

    size_bytes: int
    chunk_sha256: tuple[Digest, ...]

    def encode(self) -> bytes:
        """Return the canonical bytes: magic, u64 size, u32 chunk size, the hashes."""
        head = CHUNK_LIST_MAGIC + struct.pack("<QI", self.size_bytes, CHUNK_BYTES)
        return head + b"".join(self.chunk_sha256)

    @property
    def blob_id(self) -> Digest:
        """The blob's address: sha256 of the canonical bytes."""
        return sha256(self.encode())

    @staticmethod
    def decode(data: bytes, *, blob_id: Digest) -> ChunkList:
        """Return the list that `data` holds, after checking that it hashes to `blob_id`.

        Raises: HashMismatch: another list. PayloadMalformed: right hash, impossible content.
        """
        if sha256(data) != blob_id:
            raise HashMismatch(f"chunk list does not hash to blob {blob_id.hex()[:12]}")
        head = len(CHUNK_LIST_MAGIC) + 12
        if len(data) < head or not data.startswith(CHUNK_LIST_MAGIC):
            raise PayloadMalformed("chunk list without its magic")
        size, chunk_bytes = struct.unpack_from("<QI", data, len(CHUNK_LIST_MAGIC))
        count = -(-size // CHUNK_BYTES)
        if chunk_bytes != CHUNK_BYTES or size > MAX_BLOB_BYTES or len(data) != head + 32 * count:
            raise PayloadMalformed(f"chunk list of {len(data)} bytes cannot cover {size} bytes")
        hashes = tuple(data[head + 32 * i : head + 32 * (i + 1)] for i in range(count))
        return ChunkList(size, hashes)


def chunk_list_of(data: bytes | memoryview) -> ChunkList:
    """Return the chunk list of bytes in memory."""
    view = memoryview(data)
    starts = range(0, len(view), CHUNK_BYTES)
    return ChunkList(len(view), tuple(sha256(view[i : i + CHUNK_BYTES]) for i in starts))


def chunk_list_of_stream(chunks: Iterable[bytes | memoryview]) -> ChunkList:
    """Return the chunk list of a stream of pieces of any size, in bounded memory."""
    hashes: list[Digest] = []
    size, room, digest = 0, CHUNK_BYTES, hashlib.sha256()
    for piece in chunks:
        view = memoryview(piece)
        size += len(view)
        while view:
            digest.update(view[:room])
            taken = min(room, len(view))
            view, room = view[taken:], room - taken
            if room == 0:
                hashes.append(digest.digest())
                room, digest = CHUNK_BYTES, hashlib.sha256()
    if room != CHUNK_BYTES:
        hashes.append(digest.digest())
    return ChunkList(size, tuple(hashes))


def blob_id_of(data: bytes | memoryview) -> Digest:
    """Return the address of `data` as a blob."""
    return chunk_list_of(data).blob_id
