"""Canonical rows, compressed shards and the stable split."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from ares_p2p.errors import AresError, HashMismatch, Oversize, PayloadMalformed
from ares_p2p.shards import (
    CATEGORIES,
    Example,
    Message,
    alpaca_record,
    chatml_messages,
    decode_jsonl,
    decode_row,
    decode_shard,
    encode_jsonl,
    encode_row,
    encode_shard,
    named_key,
    split_of,
)
from ares_p2p.shards.format import MAX_CONTENT_CHARS, MAX_MESSAGES

EXAMPLE = Example(
    category="code",
    messages=(Message("user", "1 + 1?"), Message("assistant", "2")),
    key="sum:1,1",
    check='{"kind":"sum"}',
    teacher="procedural",
    licence="Apache-2.0",
)
GOLDEN_EVAL = [5, 24, 29, 31]  # of key-0 to key-39; changing it leaks held-out rows into training

text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
examples = st.builds(
    Example,
    category=st.sampled_from(CATEGORIES),
    messages=st.lists(st.builds(Message, st.sampled_from(("user", "tool", "assistant")), text), min_size=1, max_size=4).map(
        lambda turns: (*turns, Message("assistant", "done"))
    ),
    key=text,
    check=st.text(st.characters(codec="utf-8"), max_size=20),
    teacher=text,
    licence=text,
    permission_ref=st.text(st.characters(codec="utf-8"), max_size=20),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(examples, min_size=1, max_size=6))
def test_shard_round_trip(rows: list[Example]) -> None:
    shard = encode_shard(rows)
    found = decode_shard(shard.data, content_sha256=shard.content_sha256, max_bytes=1 << 20)
    assert found == tuple(rows)
    assert shard.examples == len(rows)
    assert shard.content_sha256 == hashlib.sha256(encode_jsonl(rows)).digest()


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_decode_shard_refuses_garbage_by_name(data: bytes) -> None:
    with pytest.raises(AresError):
        decode_shard(data, content_sha256=b"\1" * 32, max_bytes=1 << 16)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_decode_jsonl_refuses_garbage_by_name(data: bytes) -> None:
    try:
        rows = decode_jsonl(data)
    except AresError:
        return
    assert encode_jsonl(rows) == data


def test_row_bytes_are_golden() -> None:
    assert encode_row(EXAMPLE) == (
        b'{"category":"code","check":"{\\"kind\\":\\"sum\\"}","generator_version":"","key":"sum:1,1",'
        b'"licence":"Apache-2.0","messages":[{"content":"1 + 1?","role":"user"},'
        b'{"content":"2","role":"assistant"}],"permission_ref":"","prompt_sha256":"",'
        b'"teacher":"procedural","teacher_version":""}\n'
    )


def test_decode_shard_refuses_a_bomb_before_it_unfolds() -> None:
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(200 * 1024**2))
    assert len(bomb) < 32_768
    with pytest.raises(Oversize):
        decode_shard(bomb, content_sha256=b"\0" * 32, max_bytes=1 << 20)


def test_decode_shard_refuses_a_frame_with_a_huge_window() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = compressor.compress(encode_row(EXAMPLE) * 9) + compressor.flush()
    with pytest.raises(PayloadMalformed):
        decode_shard(data, content_sha256=b"\0" * 32, max_bytes=1 << 20)


def test_decode_shard_refuses_another_content() -> None:
    shard = encode_shard([EXAMPLE])
    with pytest.raises(HashMismatch):
        decode_shard(shard.data, content_sha256=bytes(32), max_bytes=1 << 20)


def test_decode_shard_ignores_how_it_was_compressed() -> None:
    shard = encode_shard([EXAMPLE] * 5)
    other = zstandard.ZstdCompressor(level=1).compress(encode_jsonl([EXAMPLE] * 5))
    found = decode_shard(other, content_sha256=shard.content_sha256, max_bytes=1 << 20)
    assert found == (EXAMPLE,) * 5


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_decode_shard_refuses_a_truncated_frame(cut: int) -> None:
    shard = encode_shard([EXAMPLE] * 3)
    with pytest.raises(AresError):
        decode_shard(shard.data[:-cut], content_sha256=shard.content_sha256, max_bytes=1 << 20)


@pytest.mark.parametrize(
    "change",
    [
        {"category": "other"},
        {"key": ""},
        {"licence": ""},
        {"messages": (Message("user", "a"),)},
        {"messages": (Message("assistant", "a"), Message("user", "b"))},
        {"messages": (Message("user", "a"), Message("system", "b"), Message("assistant", "c"))},
        {"messages": (Message("root", "a"), Message("assistant", "b"))},
        {"messages": (Message("user", ""), Message("assistant", "b"))},
        {"messages": (Message("user", "a"),) * MAX_MESSAGES + (Message("assistant", "b"),)},
        {"messages": (Message("user", "\ud800"), Message("assistant", "b"))},
        {"messages": (Message("user", "x" * (MAX_CONTENT_CHARS + 1)), Message("assistant", "b"))},
    ],
)
def test_encode_row_refuses_a_bad_example(change: dict[str, object]) -> None:
    with pytest.raises(AresError):
        encode_row(replace(EXAMPLE, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'"\xff"',
        encode_row(EXAMPLE).replace(b",", b", ", 1),
        encode_row(EXAMPLE).replace(b'"sum:1,1"', b"7"),
        encode_row(EXAMPLE).replace(b'"role":"user"', b'"role":"user","more":1'),
        encode_row(EXAMPLE).replace(b"1 + 1?", b"\\ud800"),
        encode_row(EXAMPLE) + b"\n",
    ],
)
def test_decode_row_refuses_other_forms(line: bytes) -> None:
    with pytest.raises(PayloadMalformed):
        decode_row(line)


def test_split_never_moves() -> None:
    assert [n for n in range(40) if split_of(f"key-{n}") == "eval"] == GOLDEN_EVAL


def test_a_named_key_is_of_the_side_that_it_names() -> None:
    keys = [f"key-{n}" for n in range(40)]
    assert {split_of(named_key("eval", key)) for key in keys} == {"eval"}
    assert {split_of(named_key("train", key)) for key in keys} == {"train"}
    assert len({split_of(f"x{named_key('eval', key)}") for key in keys}) == 2  # at its start only


def test_split_is_about_nine_to_one() -> None:
    share = sum(split_of(f"row {n}") == "eval" for n in range(20_000)) / 20_000
    assert 0.09 < share < 0.11  # four standard deviations are 0.0085


def test_alpaca_record_keeps_every_turn() -> None:
    turns = (Message("system", "Be kind."), Message("user", "Hi"), Message("assistant", "Hello"),
             Message("user", "Bye"), Message("assistant", "Farewell"))  # fmt: skip
    record = alpaca_record(replace(EXAMPLE, messages=turns))
    assert record == {
        "instruction": "Bye",
        "input": "Be kind.\nuser: Hi\nassistant: Hello",
        "output": "Farewell",
    }
    json.dumps(record)


def test_chatml_messages_are_what_templates_take() -> None:
    assert chatml_messages(EXAMPLE)[1] == {"role": "assistant", "content": "2"}
