"""Datasets as bytes: pure, no disk, no network, no torch.

format.py    Message, Example; canonical JSONL; compressed shards named by their text's hash;
             the stable train/eval split; Alpaca and ChatML views
manifest.py  which shards a dataset consists of, in chunks small enough for a DHT value
"""

from ares_p2p.domain import CATEGORIES, DatasetContent, ShardRef
from ares_p2p.shards.format import (
    ROLES,
    Example,
    Message,
    Shard,
    alpaca_record,
    chatml_messages,
    check_example,
    decode_jsonl,
    decode_row,
    decode_shard,
    encode_jsonl,
    encode_row,
    encode_shard,
    named_key,
    split_of,
)
from ares_p2p.shards.manifest import (
    build_dataset_shards,
    build_shard_ref,
    check_chunk,
    check_examples,
    check_manifest,
    chunks_of,
    join_chunks,
)

__all__ = [
    "CATEGORIES",
    "ROLES",
    "DatasetContent",
    "Example",
    "Message",
    "Shard",
    "ShardRef",
    "alpaca_record",
    "build_dataset_shards",
    "build_shard_ref",
    "chatml_messages",
    "check_chunk",
    "check_example",
    "check_examples",
    "check_manifest",
    "chunks_of",
    "decode_jsonl",
    "decode_row",
    "decode_shard",
    "encode_jsonl",
    "encode_row",
    "encode_shard",
    "join_chunks",
    "named_key",
    "split_of",
]
