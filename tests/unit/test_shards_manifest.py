"""A dataset's manifest agrees with its shards, and lies are noticed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ares_p2p.errors import AresError, HashMismatch, Oversize, PayloadMalformed
from ares_p2p.shards import (
    Example,
    Message,
    build_dataset_shards,
    build_shard_ref,
    check_chunk,
    check_examples,
    check_manifest,
    chunks_of,
    decode_shard,
    encode_shard,
    join_chunks,
)
from ares_p2p.shards.manifest import CHUNK_BYTES


def example(number: int, category: str = "code", text: str = "yes") -> Example:
    return Example(
        category=category,
        messages=(Message("user", f"question {number}"), Message("assistant", text)),
        key=f"q:{number}",
        check="",
        teacher="t",
        licence="Apache-2.0",
    )


ROWS = [example(n, ("code", "reasoning")[n % 2]) for n in range(50)]
MANIFEST, SHARDS = build_dataset_shards(ROWS, shard_content_bytes=4_000)


def test_manifest_counts_what_the_shards_hold() -> None:
    assert len(SHARDS) > 1
    assert MANIFEST.category_examples == (("reasoning", 25), ("code", 25))
    assert MANIFEST.examples == 50
    assert MANIFEST.assistant_chars == 150
    found = [
        row
        for shard, ref in zip(SHARDS, MANIFEST.shards, strict=True)
        for row in decode_shard(shard.data, content_sha256=ref.content_sha256)
    ]
    assert found == ROWS
    check_examples(MANIFEST, found)


def test_chunks_join_to_the_shard() -> None:
    noise = "".join(chr(33 + n * n * 7919 % 90_001 % 20_000) for n in range(90_000))
    shard = encode_shard([example(1, text=noise)])
    ref, chunks = build_shard_ref(shard), chunks_of(shard.data)
    assert len(chunks) > 1
    assert all(len(chunk) <= CHUNK_BYTES for chunk in chunks)
    assert join_chunks(chunks, ref) == shard.data
    with pytest.raises(HashMismatch):
        join_chunks(chunks[::-1], ref)
    with pytest.raises(PayloadMalformed):
        join_chunks(chunks[:-1], ref)
    with pytest.raises(Oversize):
        check_chunk(bytes(CHUNK_BYTES + 1), ref.chunk_sha256[0])


@pytest.mark.parametrize(
    "change",
    [
        {"shards": ()},
        {"shards": MANIFEST.shards[:-1]},
        {"shards": MANIFEST.shards + MANIFEST.shards[:1]},
        {"shards": (replace(MANIFEST.shards[0], chunk_sha256=()), *MANIFEST.shards[1:])},
        {"shards": (replace(MANIFEST.shards[0], content_sha256=b"x"), *MANIFEST.shards[1:])},
        {"shards": (replace(MANIFEST.shards[0], compressed_size_bytes=1 << 30), *MANIFEST.shards[1:])},
        {"shards": (replace(MANIFEST.shards[0], examples=0), *MANIFEST.shards[1:])},
        {"examples": 51},
        {"category_examples": (("code", 25), ("reasoning", 25))},
        {"category_examples": (("reasoning", 25), ("poetry", 25))},
        {"category_examples": (("reasoning", 50), ("code", 0))},
        {"assistant_chars": 3},
    ],
)  # fmt: skip
def test_check_manifest_refuses_numbers_that_disagree(change: dict[str, object]) -> None:
    with pytest.raises(AresError):
        check_manifest(replace(MANIFEST, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "rows", [ROWS[1:], [*ROWS[1:], ROWS[1]], [*ROWS[:-1], example(49, "reasoning", "y")]]
)
def test_check_examples_refuses_other_rows(rows: list[Example]) -> None:
    with pytest.raises(PayloadMalformed):
        check_examples(MANIFEST, rows)


def test_build_refuses_an_empty_dataset() -> None:
    with pytest.raises(PayloadMalformed):
        build_dataset_shards([])
