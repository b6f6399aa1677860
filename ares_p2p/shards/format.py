"""Examples and shards: the canonical text of a dataset, compressed and addressed by its hash.

A shard is JSONL (sorted keys, compact separators, UTF-8, one newline after every row) under
zstandard. Its name is the sha256 of the *uncompressed* text, so the name does not depend on a
compressor's version. A dataset has exactly one canonical text: a shard whose rows are written in
any other way is refused. Text only, never token ids: peers tokenize for themselves.

What it refuses: more bytes than the caller allows (checked while decompressing, so a zip bomb
costs nothing), unknown fields, unknown categories and roles, conversations that do not end with
the assistant. It does not judge answers; that is the verifier's work.

Source: RFC 8878 (zstandard), RFC 8259 (JSON); data/README.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import zstandard

from ares_p2p.domain import CATEGORIES
from ares_p2p.errors import HashMismatch, Oversize, PayloadMalformed
from ares_p2p.ids import Digest, sha256

ROLES: Final = ("system", "user", "assistant", "tool")

MAX_SHARD_CONTENT_BYTES = 64 * 1024**2  # uncompressed; a 16 MB shard of text is about 60 MB
MAX_EXAMPLES_PER_SHARD = 65_536  # bounds the objects that one shard can make
MAX_MESSAGES = 64  # turns of one conversation
MAX_CONTENT_CHARS = 131_072  # one message: 32k tokens, the longest context that is trained
MAX_FIELD_CHARS = 2_048  # key, check and each provenance field
ZSTD_LEVEL = 10  # level 19 is 3 % smaller and 15 times slower on procedural text
_ZSTD_MAX_WINDOW_BYTES = 8 * 1024**2  # what a decoder must be ready to hold; level 10 asks for 4 MB
_READ_BYTES = 256 * 1024  # one step of decompression between two looks at the bound
_SPLIT_DOMAIN = b"ares-split-v1\0"
_EVAL_PARTS, _ALL_PARTS = 1, 10  # one key in ten is held out
_NAMED = "ares-split-{}/"  # before the key of a row that is made for one side

Split = Literal["train", "eval"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn: `role` is one of `ROLES`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation that ends with the assistant, and where it comes from.

    Attributes:
        category: one of `CATEGORIES`.
        messages: the turns; the last one is the assistant's.
        key: what the prompt asks, folded: rows with one key are the same task. Decides the split.
        check: JSON text that a program can check the answer by; "" if there is no such program.
        teacher, teacher_version: who wrote the answer.
        generator_version: what wrote the prompt; "" if it is the teacher itself.
        licence: licence of the text, an SPDX expression or the teacher's terms by name.
        permission_ref: the permission a teacher with restrictive terms runs under; "" if none
            is needed.
        prompt_sha256: hex digest of the request that produced the row; "" if that is `messages`.
    """

    category: str
    messages: tuple[Message, ...]
    key: str
    check: str
    teacher: str
    licence: str
    permission_ref: str = ""
    teacher_version: str = ""
    generator_version: str = ""
    prompt_sha256: str = ""

    @property
    def answer(self) -> str:
        """The last message's text."""
        return self.messages[-1].content

    @property
    def assistant_chars(self) -> int:
        """Characters that are trained on."""
        return sum(len(m.content) for m in self.messages if m.role == "assistant")


_TEXT_FIELDS: Final = (
    "category",
    "check",
    "generator_version",
    "key",
    "licence",
    "permission_ref",
    "prompt_sha256",
    "teacher",
    "teacher_version",
)
_FIELDS: Final = frozenset({*_TEXT_FIELDS, "messages"})


@dataclass(frozen=True, slots=True)
class Shard:
    """Compressed rows and their name."""

    data: bytes
    content_sha256: Digest
    content_size_bytes: int
    examples: int


def split_of(key: str) -> Split:
    """Return the side of the 90/10 split that a prompt key belongs to, for ever.

    Args:
        key: an example's `key`.
    Returns: the side that the key names (`named_key`); of all other keys, "eval" for one in ten by
        its hash, "train" for the rest.
    """
    if key.startswith(_NAMED.format("eval")):
        return "eval"
    if key.startswith(_NAMED.format("train")):
        return "train"
    digest = sha256(_SPLIT_DOMAIN, key.encode())
    return "eval" if int.from_bytes(digest[:8], "big") % _ALL_PARTS < _EVAL_PARTS else "train"


def named_key(side: Split, key: str) -> str:
    """Return a key that names its side: of rows from templates, which are held out as templates."""
    return _NAMED.format(side) + key


def check_example(example: Example) -> None:
    """Check the form of an example: fields, bounds, roles and their order.

    Raises: PayloadMalformed: a value that is not allowed. Oversize: a value too long.
    """
    if example.category not in CATEGORIES:
        raise PayloadMalformed(f"category {example.category[:40]!r}, one of {CATEGORIES} expected")
    for name in _TEXT_FIELDS:
        if len(getattr(example, name)) > MAX_FIELD_CHARS:
            raise Oversize(f"{name} of more than {MAX_FIELD_CHARS} characters")
    for name in ("key", "teacher", "licence"):
        if not getattr(example, name):
            raise PayloadMalformed(f"example without {name}")
    if not 2 <= len(example.messages) <= MAX_MESSAGES:
        raise PayloadMalformed(f"{len(example.messages)} messages, 2 to {MAX_MESSAGES} expected")
    for position, message in enumerate(example.messages):
        if message.role not in ROLES or (message.role == "system" and position > 0):
            raise PayloadMalformed(f"role {message.role[:40]!r} at position {position}")
        if not message.content:
            raise PayloadMalformed(f"empty message at position {position}")
        if len(message.content) > MAX_CONTENT_CHARS:
            raise Oversize(f"message of more than {MAX_CONTENT_CHARS} characters")
    if example.messages[-1].role != "assistant":
        raise PayloadMalformed("the last message is not the assistant's")


def _row_of(example: Example) -> dict[str, object]:
    row: dict[str, object] = {name: getattr(example, name) for name in _TEXT_FIELDS}
    row["messages"] = [{"content": m.content, "role": m.role} for m in example.messages]
    return row


def encode_row(example: Example) -> bytes:
    """Return the canonical line of one example, with its newline.

    Raises: PayloadMalformed, Oversize: see `check_example`; text that is no valid Unicode.
    """
    check_example(example)
    text = json.dumps(_row_of(example), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError as error:
        raise PayloadMalformed("text with a lone surrogate is no Unicode") from error


def encode_jsonl(examples: Iterable[Example]) -> bytes:
    """Return the canonical text of `examples`, in their order."""
    return b"".join(encode_row(example) for example in examples)


def _decode_message(value: object) -> Message:
    if not isinstance(value, dict) or value.keys() != {"role", "content"}:
        raise PayloadMalformed("a message must hold role and content, nothing else")
    role, content = value["role"], value["content"]
    if not isinstance(role, str) or not isinstance(content, str):
        raise PayloadMalformed("role and content must be text")
    return Message(role, content)


def decode_row(line: bytes) -> Example:
    """Return the example of one line, with or without its newline.

    Raises: PayloadMalformed, Oversize: not a row of the canonical form.
    """
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise PayloadMalformed("a row is no JSON") from error
    if not isinstance(row, dict) or row.keys() != _FIELDS:
        raise PayloadMalformed(f"a row must hold exactly {sorted(_FIELDS)}")
    messages = row.pop("messages")
    if not isinstance(messages, list) or len(messages) > MAX_MESSAGES:
        raise PayloadMalformed(f"messages must be a list of at most {MAX_MESSAGES}")
    if not all(isinstance(value, str) for value in row.values()):
        raise PayloadMalformed("every field but messages must be text")
    example = Example(messages=tuple(_decode_message(m) for m in messages), **row)
    if encode_row(example) != line.removesuffix(b"\n") + b"\n":
        raise PayloadMalformed("a row is not written in the canonical form")
    return example


def decode_jsonl(data: bytes) -> tuple[Example, ...]:
    """Return the examples of canonical text.

    Raises: PayloadMalformed: another form. Oversize: too many rows.
    """
    if not data:
        return ()
    if not data.endswith(b"\n"):
        raise PayloadMalformed("the last row does not end with a newline")
    if data.count(b"\n") > MAX_EXAMPLES_PER_SHARD:
        raise Oversize(f"more than {MAX_EXAMPLES_PER_SHARD} rows in one shard")
    return tuple(decode_row(line) for line in data[:-1].split(b"\n"))


def encode_shard(examples: Sequence[Example]) -> Shard:
    """Return the compressed shard of `examples`, in their order.

    Raises: Oversize: more rows or bytes than a shard may hold. PayloadMalformed: a bad row.
    """
    if len(examples) > MAX_EXAMPLES_PER_SHARD:
        raise Oversize(f"{len(examples)} rows, at most {MAX_EXAMPLES_PER_SHARD} fit a shard")
    content = encode_jsonl(examples)
    if len(content) > MAX_SHARD_CONTENT_BYTES:
        raise Oversize(f"{len(content)} bytes, at most {MAX_SHARD_CONTENT_BYTES} fit a shard")
    data = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_content_size=True).compress(content)
    return Shard(data, sha256(content), len(content), len(examples))


def _decompress(data: bytes, *, max_bytes: int) -> bytes:
    decoder = zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW_BYTES)
    parts: list[bytes] = []
    size = 0
    try:
        with decoder.stream_reader(data, read_across_frames=False) as reader:
            while part := reader.read(_READ_BYTES):
                size += len(part)
                if size > max_bytes:
                    raise Oversize(f"the shard holds more than {max_bytes} bytes")
                parts.append(part)
    except zstandard.ZstdError as error:
        raise PayloadMalformed("the shard is no zstandard frame") from error
    return b"".join(parts)


def decode_shard(
    data: bytes, *, content_sha256: Digest, max_bytes: int = MAX_SHARD_CONTENT_BYTES
) -> tuple[Example, ...]:
    """Return the examples of a shard that somebody sent.

    Args:
        data: compressed bytes.
        content_sha256: the name the shard was asked by.
        max_bytes: most bytes of uncompressed text to accept.
    Raises: Oversize: too much text. HashMismatch: another shard, or a damaged one.
        PayloadMalformed: no zstandard frame, or rows that are not canonical.
    """
    content = _decompress(data, max_bytes=max_bytes)
    if sha256(content) != content_sha256:
        raise HashMismatch(f"the shard's text does not hash to {content_sha256.hex()[:12]}")
    return decode_jsonl(content)


def chatml_messages(example: Example) -> list[dict[str, str]]:
    """Return the turns as `tokenizer.apply_chat_template` takes them."""
    return [{"role": m.role, "content": m.content} for m in example.messages]


def alpaca_record(example: Example) -> dict[str, str]:
    """Return the example in Alpaca's form, for other trainers.

    Alpaca knows one turn: a system text and all turns before the last answer fold into `input`
    and `instruction`.

    Returns: instruction (the last question), input (what came before it), output (the answer).
    """
    before = [*example.messages[:-2]]
    context = [m.content if m.role == "system" else f"{m.role}: {m.content}" for m in before]
    return {
        "instruction": example.messages[-2].content,
        "input": "\n".join(context),
        "output": example.answer,
    }
