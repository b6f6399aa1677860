"""Peer ids, base58, blob ids: known answers, round trips, and refusals."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ares_p2p.errors import HashMismatch, PayloadMalformed
from ares_p2p.ids import (
    CHUNK_BYTES,
    CHUNK_LIST_MAGIC,
    MAX_BLOB_BYTES,
    ChunkList,
    base58_decode,
    base58_encode,
    blob_id_of,
    chunk_list_of,
    chunk_list_of_stream,
    peer_id_of,
    public_key_of,
    sha256,
)


@pytest.mark.parametrize(
    ("data", "text"),
    [  # draft-msporny-base58, section 5
        (b"Hello World!", "2NEpo7TZRRrLZSi2U"),
        (
            b"The quick brown fox jumps over the lazy dog.",
            "USm3fpXnKG5EUBx2ndxBDMPVciP5hGey2Jh4NDv6gmeo1LkMeiKrLJUUBk6Z",
        ),
        (bytes.fromhex("0000287fb4cd"), "11233QC4"),
        (b"", ""),
    ],
)
def test_base58_known_answers(data: bytes, text: str) -> None:
    assert base58_encode(data) == text
    assert base58_decode(text) == data


@given(st.binary(max_size=64))
def test_base58_round_trip(data: bytes) -> None:
    assert base58_decode(base58_encode(data)) == data


@pytest.mark.parametrize("text", ["0", "O", "I", "l", "abc def", "\u00e9", "1" * 129])
def test_base58_refuses(text: str) -> None:
    with pytest.raises(PayloadMalformed):
        base58_decode(text)


@given(st.binary(min_size=32, max_size=32))
def test_peer_id_embeds_the_key(key: bytes) -> None:
    peer_id = peer_id_of(key)
    assert peer_id.startswith("12D3KooW")
    assert public_key_of(peer_id) == key


def test_a_key_has_one_peer_id_only() -> None:
    # a second spelling of an id would be a second ledger account with the same key
    peer_id = peer_id_of(bytes(range(32)))
    for other in ("1" + peer_id, peer_id[1:], peer_id + "1", peer_id.lower(), f" {peer_id}"):
        with pytest.raises(PayloadMalformed):
            public_key_of(other)


@pytest.mark.parametrize(
    "peer_id",
    [
        "",
        "1",
        base58_encode(bytes([0x00, 0x24, 0x08, 0x02, 0x12, 0x20]) + bytes(32)),  # secp256k1
        base58_encode(bytes([0x12, 0x20]) + bytes(32)),  # RSA: a sha256 of the key
        base58_encode(bytes([0x00, 0x24, 0x08, 0x01, 0x12, 0x20]) + bytes(31)),
    ],
)
def test_public_key_of_refuses(peer_id: str) -> None:
    with pytest.raises(PayloadMalformed):
        public_key_of(peer_id)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_peer_id_of_refuses_other_lengths(length: int) -> None:
    with pytest.raises(PayloadMalformed):
        peer_id_of(bytes(length))


@pytest.mark.parametrize(
    "size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES]
)
def test_chunk_list_covers_the_blob(size: int) -> None:
    data = (hashlib.sha256(b"x").digest() * (size // 32 + 1))[:size]
    chunks = chunk_list_of(data)
    assert chunks.size_bytes == size
    assert len(chunks.chunk_sha256) == -(-size // CHUNK_BYTES)
    starts = range(0, size, CHUNK_BYTES)
    assert chunks.chunk_sha256 == tuple(sha256(data[i : i + CHUNK_BYTES]) for i in starts)
    assert ChunkList.decode(chunks.encode(), blob_id=chunks.blob_id) == chunks
    assert blob_id_of(data) == chunks.blob_id


def test_blob_id_by_hand() -> None:
    encoded = b"ARESBLB1" + struct.pack("<QI", 3, 262_144) + hashlib.sha256(b"abc").digest()
    assert blob_id_of(b"abc") == hashlib.sha256(encoded).digest()


@given(
    st.lists(
        st.integers(0, 2).flatmap(
            lambda n: st.binary(max_size=9).map(lambda b: b * (n * 20_000 + 1))
        ),
        max_size=6,
    )
)
def test_stream_and_memory_agree(pieces: list[bytes]) -> None:
    assert chunk_list_of_stream(pieces) == chunk_list_of(b"".join(pieces))


def test_chunk_list_refuses_another_blobs_list() -> None:
    chunks = chunk_list_of(b"abc")
    with pytest.raises(HashMismatch):
        ChunkList.decode(chunks.encode(), blob_id=bytes(32))
    with pytest.raises(HashMismatch):
        ChunkList.decode(chunks.encode()[:-1] + b"\0", blob_id=chunks.blob_id)


def _head(size: int, chunk_bytes: int = CHUNK_BYTES) -> bytes:
    return CHUNK_LIST_MAGIC + struct.pack("<QI", size, chunk_bytes)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        CHUNK_LIST_MAGIC,
        b"ARESBLB2" + _head(0)[8:],
        _head(1),  # one chunk announced, none listed
        _head(0) + bytes(32),
        _head(CHUNK_BYTES + 1) + bytes(32),
        _head(1, 1) + bytes(32),
        _head(MAX_BLOB_BYTES + 1) + bytes(32 * (MAX_BLOB_BYTES // CHUNK_BYTES + 1)),
        _head(2**64 - 1),
    ],
    ids=range(9),
)
def test_chunk_list_with_the_right_hash_but_impossible_content(data: bytes) -> None:
    with pytest.raises(PayloadMalformed):
        ChunkList.decode(data, blob_id=sha256(data))
