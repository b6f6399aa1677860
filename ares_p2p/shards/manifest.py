"""The manifest of a dataset: which shards it consists of, and what they hold.

A shard travels in chunks of at most 48 KiB of its compressed bytes, each addressed by its sha256,
so that every chunk can be checked before the next one is asked for. Counts in a manifest are
claims of whoever signed it; `check_examples` compares them with the rows that came.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from ares_p2p.domain import CATEGORIES, DatasetContent, ShardRef
from ares_p2p.errors import HashMismatch, Oversize, PayloadMalformed
from ares_p2p.ids import DIGEST_BYTES, Digest, sha256
from ares_p2p.shards.format import (
    MAX_EXAMPLES_PER_SHARD,
    Example,
    Shard,
    encode_row,
    encode_shard,
)

CHUNK_BYTES = 48 * 1024  # a DHT value: p2pd refuses much larger ones, and 64 KiB with its envelope
MAX_SHARD_BYTES = 16 * 1024**2  # compressed; 342 chunk hashes, 11 kB of manifest
MAX_SHARDS = 256  # 4 GiB of compressed text in one cycle
SHARD_CONTENT_BYTES = 16 * 1024**2  # where a new shard begins: about 2-4 MB compressed


def chunks_of(data: bytes) -> tuple[bytes, ...]:
    """Return compressed bytes in chunks of `CHUNK_BYTES`, the last one shorter."""
    return tuple(data[i : i + CHUNK_BYTES] for i in range(0, len(data), CHUNK_BYTES))


def build_shard_ref(shard: Shard) -> ShardRef:
    """Return the reference under which `shard` is published."""
    hashes = tuple(sha256(chunk) for chunk in chunks_of(shard.data))
    return ShardRef(shard.content_sha256, len(shard.data), shard.examples, hashes)


def check_chunk(chunk: bytes, chunk_sha256: Digest) -> None:
    """Check one chunk that somebody sent.

    Raises: Oversize: longer than a chunk may be. HashMismatch: another chunk.
    """
    if len(chunk) > CHUNK_BYTES:
        raise Oversize(f"chunk of {len(chunk)} bytes, at most {CHUNK_BYTES} expected")
    if sha256(chunk) != chunk_sha256:
        raise HashMismatch(f"chunk does not hash to {chunk_sha256.hex()[:12]}")


def join_chunks(chunks: Sequence[bytes], ref: ShardRef) -> bytes:
    """Return the compressed bytes of a shard from its chunks, each checked.

    Raises: PayloadMalformed: a wrong number of chunks or bytes. HashMismatch, Oversize: a bad chunk.
    """
    if len(chunks) != len(ref.chunk_sha256):
        raise PayloadMalformed(f"{len(chunks)} chunks, {len(ref.chunk_sha256)} expected")
    for chunk, digest in zip(chunks, ref.chunk_sha256, strict=True):
        check_chunk(chunk, digest)
    data = b"".join(chunks)
    if len(data) != ref.compressed_size_bytes:
        raise PayloadMalformed(f"shard of {len(data)} bytes, {ref.compressed_size_bytes} expected")
    return data


def _batches(examples: Iterable[Example], content_bytes: int) -> Iterator[list[Example]]:
    batch: list[Example] = []
    size = 0
    for example in examples:
        row_bytes = len(encode_row(example))
        if batch and (size + row_bytes > content_bytes or len(batch) == MAX_EXAMPLES_PER_SHARD):
            yield batch
            batch, size = [], 0
        batch.append(example)
        size += row_bytes
    if batch:
        yield batch


def _category_examples(examples: Iterable[Example]) -> tuple[tuple[str, int], ...]:
    counts = Counter(example.category for example in examples)
    return tuple((name, counts[name]) for name in CATEGORIES if counts[name])


def build_dataset_shards(
    examples: Sequence[Example], *, shard_content_bytes: int = SHARD_CONTENT_BYTES
) -> tuple[DatasetContent, tuple[Shard, ...]]:
    """Return the shards of `examples` and their manifest.

    Args:
        examples: rows in the order in which they will be assigned.
        shard_content_bytes: uncompressed bytes after which a new shard begins.
    Raises: PayloadMalformed: no rows, or a bad one. Oversize: more shards than a manifest holds.
    """
    shards = tuple(encode_shard(batch) for batch in _batches(examples, shard_content_bytes))
    manifest = DatasetContent(
        shards=tuple(build_shard_ref(shard) for shard in shards),
        category_examples=_category_examples(examples),
        examples=len(examples),
        assistant_chars=sum(example.assistant_chars for example in examples),
    )
    check_manifest(manifest)
    return manifest, shards


def _check_shard_ref(ref: ShardRef) -> None:
    if not 0 < ref.compressed_size_bytes <= MAX_SHARD_BYTES:
        raise Oversize(
            f"shard of {ref.compressed_size_bytes} bytes, 1 to {MAX_SHARD_BYTES} expected"
        )
    if not 0 < ref.examples <= MAX_EXAMPLES_PER_SHARD:
        raise PayloadMalformed(f"shard of {ref.examples} rows")
    if len(ref.chunk_sha256) != -(-ref.compressed_size_bytes // CHUNK_BYTES):
        raise PayloadMalformed(
            f"{len(ref.chunk_sha256)} chunks cannot hold {ref.compressed_size_bytes} bytes"
        )
    if any(len(digest) != DIGEST_BYTES for digest in (ref.content_sha256, *ref.chunk_sha256)):
        raise PayloadMalformed(f"a digest is not {DIGEST_BYTES} bytes long")


def check_manifest(manifest: DatasetContent) -> None:
    """Check a manifest's bounds and that its numbers agree with each other.

    Raises: PayloadMalformed: numbers that disagree. Oversize: more than the bounds allow.
    """
    if not manifest.shards:
        raise PayloadMalformed("a dataset without shards")
    if len(manifest.shards) > MAX_SHARDS:
        raise Oversize(f"{len(manifest.shards)} shards, at most {MAX_SHARDS} expected")
    for ref in manifest.shards:
        _check_shard_ref(ref)
    if len({ref.content_sha256 for ref in manifest.shards}) != len(manifest.shards):
        raise PayloadMalformed("one shard is listed twice")
    names = [name for name, _ in manifest.category_examples]
    if names != [name for name in CATEGORIES if name in names]:
        raise PayloadMalformed("categories are unknown, repeated or out of order")
    if any(count <= 0 for _, count in manifest.category_examples):
        raise PayloadMalformed("a category without rows is listed")
    by_shard = sum(ref.examples for ref in manifest.shards)
    by_category = sum(count for _, count in manifest.category_examples)
    if not manifest.examples == by_shard == by_category:
        raise PayloadMalformed(
            f"{manifest.examples} rows, {by_shard} in the shards, {by_category} in the categories"
        )
    if manifest.assistant_chars < manifest.examples:
        raise PayloadMalformed("fewer assistant characters than rows")


def check_examples(manifest: DatasetContent, examples: Sequence[Example]) -> None:
    """Check that the decoded rows of all shards are what the manifest says.

    Raises: PayloadMalformed: a count differs.
    """
    if len(examples) != manifest.examples:
        raise PayloadMalformed(f"{len(examples)} rows, {manifest.examples} expected")
    if _category_examples(examples) != manifest.category_examples:
        raise PayloadMalformed("the rows per category are not those of the manifest")
    if sum(example.assistant_chars for example in examples) != manifest.assistant_chars:
        raise PayloadMalformed("the assistant characters are not those of the manifest")
