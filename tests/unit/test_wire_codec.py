"""Payloads of every kind: round trips, golden bytes, and nothing hostile gets through.

Whatever a stranger sends may only raise a `PeerFault`: any other exception would be a way to
bring a node down.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ares_p2p import domain
from ares_p2p.crypto.envelope import Envelope, check_envelope, sign_payload
from ares_p2p.errors import (
    BadSignature,
    EnvelopeMalformed,
    Oversize,
    PayloadMalformed,
    PeerFault,
    WeakKey,
    WrongNetwork,
    WrongSigner,
)
from ares_p2p.wire.codec import (
    MAX_COMMIT_BYTES,
    MAX_ENVELOPE_BYTES,
    MAX_ITEMS,
    MAX_NESTED_BYTES,
    MAX_TEXT_CHARS,
    class_of,
    decode_envelope,
    decode_payload,
    encode_envelope,
    encode_payload,
    kind_of,
    open_envelope,
    payload_type_of,
    seal,
)
from ares_p2p.wire.v1 import ares_pb2 as pb
from payloads import KINDS, hostile_messages, identity, message_class, payloads, sample

VECTORS: dict[str, dict[str, str]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "wire.json").read_text(encoding="utf-8")
)
OLDER: dict[str, dict[str, str]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "wire_0_1_0.json").read_text(encoding="utf-8")
)
every_kind = pytest.mark.parametrize("cls", KINDS, ids=kind_of)


def decode(cls: type, data: bytes) -> Any:
    """Decode `data` as what it claims to be."""
    return decode_payload(payload_type_of(kind_of(cls)), data, cls)


# --- round trips and golden vectors ------------------------------------------------------------


@every_kind
@given(data=st.data())
@settings(max_examples=40)
def test_round_trip(cls: type, data: st.DataObject) -> None:
    payload = data.draw(payloads(cls))
    encoded = encode_payload(payload)
    assert decode(cls, encoded) == payload
    assert encode_payload(decode(cls, encoded)) == encoded


@every_kind
def test_golden_vector(cls: type) -> None:
    """The bytes of version 1 may not change: older peers would refuse newer ones."""
    vector, payload = VECTORS[kind_of(cls)], sample(cls)
    assert payload_type_of(kind_of(cls)) == vector["payload_type"]
    assert encode_payload(payload).hex() == vector["payload"]
    envelope = seal(identity(1), payload)
    assert encode_envelope(envelope).hex() == vector["envelope"]
    assert envelope.payload_sha256.hex() == vector["payload_sha256"]
    received = decode_envelope(bytes.fromhex(vector["envelope"]))
    assert class_of(received) is cls
    assert open_envelope(received, cls, signer=identity(1).peer_id) == payload


@pytest.mark.parametrize("kind", OLDER)
def test_what_version_0_1_0_wrote_still_decodes(kind: str) -> None:
    cls = next(cls for cls in KINDS if kind_of(cls) == kind)
    envelope = decode_envelope(bytes.fromhex(OLDER[kind]["envelope"]))
    payload = open_envelope(envelope, cls, signer=identity(1).peer_id)
    expected = sample(cls)
    older = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
    for name in older:
        if name not in ("base", "entries", "training"):  # these have newer fields themselves
            assert getattr(payload, name) == getattr(expected, name)
    assert len(older) > 2


def test_every_kind_has_a_golden_vector() -> None:
    assert sorted(VECTORS) == sorted(kind_of(cls) for cls in KINDS)


@every_kind
def test_message_and_dataclass_have_the_same_fields(cls: type) -> None:
    names = {field.name for field in dataclasses.fields(cls)}
    assert {field.name for field in message_class(cls).DESCRIPTOR.fields} == names


def test_doubles_travel_with_all_their_bits() -> None:
    plan = dataclasses.replace(sample(domain.RoundPlan), inner_lr=math.nextafter(0.1, 1))
    assert decode(domain.RoundPlan, encode_payload(plan)).inner_lr == math.nextafter(0.1, 1)


def test_unknown_fields_are_skipped() -> None:
    # what a newer peer adds does not break an older one; the signature still covers it
    ack = sample(domain.CommitAck)
    assert decode(domain.CommitAck, encode_payload(ack) + b"\xfa\x7f\x03new") == ack


# --- hostile bytes -----------------------------------------------------------------------------


@every_kind
@given(data=st.binary(max_size=300))
@settings(max_examples=60)
def test_garbage_raises_peer_faults_only(cls: type, data: bytes) -> None:
    for attempt in (lambda: decode(cls, data), lambda: decode_envelope(data)):
        with contextlib.suppress(PeerFault):
            attempt()


@every_kind
@given(data=st.data())
@settings(max_examples=60)
def test_damaged_payload_raises_peer_faults_only(cls: type, data: st.DataObject) -> None:
    good = bytearray(encode_payload(sample(cls)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(good)))
        good[place : place + data.draw(st.integers(0, 5))] = data.draw(st.binary(max_size=5))
    try:
        payload = decode(cls, bytes(good))
    except PeerFault:
        return
    assert decode(cls, encode_payload(payload)) == payload


@every_kind
@given(data=st.data())
@settings(max_examples=60)
def test_hostile_values_raise_peer_faults_only(cls: type, data: st.DataObject) -> None:
    try:
        payload = decode(cls, data.draw(hostile_messages(cls)))
    except PeerFault:
        return
    assert decode(cls, encode_payload(payload)) == payload


@given(st.text(max_size=40), st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=70))
def test_hostile_envelope_raises_peer_faults_only(
    kind: str, payload: bytes, key: bytes, signature: bytes
) -> None:
    try:
        data = pb.Envelope(
            payload_type=kind, payload=payload, public_key=key, signature=signature
        ).SerializeToString()
    except UnicodeEncodeError:
        return
    with contextlib.suppress(PeerFault):
        open_envelope(decode_envelope(data), domain.Commit)
    for cls in KINDS:
        with pytest.raises(PeerFault):
            open_envelope(Envelope(kind, payload, key, signature), cls)


def test_text_that_is_no_utf8_is_refused() -> None:
    data = pb.Header(network_id="net").SerializeToString().replace(b"net", b"\xff\xfe\xfd")
    with pytest.raises(PayloadMalformed):
        decode(domain.CommitAck, b"\x0a" + bytes([len(data)]) + data)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x08", b"\xff" * 32, b"\x0a\x7f", b"\x0a\x05net", b"<html></html>", b"\x00" * 200],
    ids=range(7),
)
def test_bytes_that_are_no_envelope(data: bytes) -> None:
    with pytest.raises(EnvelopeMalformed):
        decode_envelope(data)


# --- bounds ------------------------------------------------------------------------------------


def test_size_is_checked_before_anything_is_decoded() -> None:
    huge = bytes(MAX_ENVELOPE_BYTES + 1)
    with pytest.raises(Oversize):
        decode_envelope(huge)
    with pytest.raises(Oversize):
        decode(domain.Commit, huge)
    with pytest.raises(Oversize):  # before the signature, which would hash all of it
        open_envelope(
            Envelope(payload_type_of("commit"), huge, bytes(32), bytes(64)), domain.Commit
        )
    with pytest.raises(Oversize):
        encode_envelope(sign_payload(identity(1), "x", huge))
    with pytest.raises(Oversize):
        decode_envelope(bytes(101), max_bytes=100)


def _status(**changes: Any) -> domain.PeerStatus:
    return dataclasses.replace(sample(domain.PeerStatus), **changes)


def test_count_of_items_is_bounded() -> None:
    full = _status(held_blobs=(bytes(32),) * MAX_ITEMS)
    assert decode(domain.PeerStatus, encode_payload(full)) == full
    with pytest.raises(Oversize):
        encode_payload(_status(held_blobs=(bytes(32),) * (MAX_ITEMS + 1)))
    with pytest.raises(Oversize):
        decode(domain.PeerStatus, encode_payload(full) + b"\x42\x20" + bytes(32))
    targets = ("q",) * (MAX_ITEMS + 1)
    config = sample(domain.CycleConfig)
    with pytest.raises(Oversize):
        encode_payload(
            dataclasses.replace(
                config, training=dataclasses.replace(config.training, targets=targets)
            )
        )


def test_text_is_bounded_and_printable() -> None:
    longest = _status(device="x" * MAX_TEXT_CHARS)
    assert decode(domain.PeerStatus, encode_payload(longest)) == longest
    assert encode_payload(_status(device=""))
    for text in ("x" * (MAX_TEXT_CHARS + 1), "a\nb", "\x1b[2J", "\u202egnp.exe", "\x00"):
        with pytest.raises(PayloadMalformed):
            encode_payload(_status(device=text))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_digest_has_32_bytes(length: int) -> None:
    with pytest.raises(PayloadMalformed):
        encode_payload(_status(state=bytes(length)))
    with pytest.raises(PayloadMalformed):
        encode_payload(_status(held_blobs=(bytes(32), bytes(length))))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -1e-30, -1.0])
def test_number_is_finite_and_not_negative(number: float) -> None:
    with pytest.raises(PayloadMalformed):
        encode_payload(_status(tokens_per_s=number))
    message = pb.PeerStatus()
    message.ParseFromString(encode_payload(_status()))
    message.tokens_per_s = number
    with pytest.raises(PayloadMalformed):
        decode(domain.PeerStatus, message.SerializeToString())
    with pytest.raises(PayloadMalformed):
        encode_payload(_manifest(coefficient=number))


def test_float32_overflow_is_refused() -> None:
    with pytest.raises(PayloadMalformed):
        encode_payload(_manifest(coefficient=1e39))


def _manifest(**changes: Any) -> domain.RoundManifest:
    manifest = sample(domain.RoundManifest)
    entry = dataclasses.replace(manifest.entries[0], **changes)
    return dataclasses.replace(manifest, entries=(entry,))


@pytest.mark.parametrize("number", [-1, 2**53, 2**63, 2**64])
def test_integer_is_exact_everywhere_and_not_negative(number: int) -> None:
    header = dataclasses.replace(sample(domain.Header), seq=number)
    with pytest.raises(PayloadMalformed):
        encode_payload(_status(header=header))


def test_integer_beyond_the_bound_is_refused_when_received() -> None:
    message = pb.PeerStatus()
    message.ParseFromString(encode_payload(_status()))
    message.header.seq = 2**64 - 1
    with pytest.raises(PayloadMalformed, match=r"PeerStatus\.header\.Header\.seq"):
        decode(domain.PeerStatus, message.SerializeToString())


def test_32_bit_integer_is_bounded() -> None:
    with pytest.raises(PayloadMalformed):
        encode_payload(_status(protocol=2**32))


def test_negative_varint_on_the_wire_is_refused() -> None:
    data = encode_payload(_status())
    seq = b"\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"  # field 4, ten-byte -1
    with pytest.raises(PayloadMalformed):
        decode(domain.PeerStatus, data + b"\x0a" + bytes([len(seq)]) + seq)


def test_peer_id_must_embed_a_key() -> None:
    ack = sample(domain.CommitAck)
    for peer in ("", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "alice", "x" * 200):
        with pytest.raises(PayloadMalformed):
            encode_payload(dataclasses.replace(ack, peer=peer))


def test_nested_bytes_are_bounded() -> None:
    commits = sample(domain.CommitSet)
    encode_payload(dataclasses.replace(commits, commits=(bytes(MAX_NESTED_BYTES),)))
    with pytest.raises(Oversize):
        encode_payload(dataclasses.replace(commits, commits=(bytes(MAX_NESTED_BYTES + 1),)))


@every_kind
def test_missing_header_is_refused(cls: type) -> None:
    message = message_class(cls)()
    message.ParseFromString(encode_payload(sample(cls)))
    message.ClearField("header")
    with pytest.raises(PayloadMalformed, match="header is missing"):
        decode(cls, message.SerializeToString())


@pytest.mark.parametrize("name", ["base", "training", "limits"])
def test_missing_part_is_refused(name: str) -> None:
    message = pb.CycleConfig()
    message.ParseFromString(encode_payload(sample(domain.CycleConfig)))
    message.ClearField(name)
    with pytest.raises(PayloadMalformed, match=f"{name} is missing"):
        decode(domain.CycleConfig, message.SerializeToString())


@pytest.mark.parametrize("value", [0, 4, 99, -1])
def test_unknown_enum_is_refused(value: int) -> None:
    message = pb.RoundManifest()
    message.ParseFromString(encode_payload(sample(domain.RoundManifest)))
    message.entries[0].status = value
    with pytest.raises(PayloadMalformed, match="unknown value"):
        decode(domain.RoundManifest, message.SerializeToString())
    settlement = pb.RoundSettlement()
    settlement.ParseFromString(encode_payload(sample(domain.RoundSettlement)))
    settlement.entries[1].outcome = 5 if value == 4 else value
    with pytest.raises(PayloadMalformed, match="unknown value"):
        decode(domain.RoundSettlement, settlement.SerializeToString())


def test_wrong_python_types_are_refused_by_the_sender() -> None:
    for change in ({"device": 3}, {"state": "text"}, {"header": None}, {"held_blobs": (3,)}):
        with pytest.raises(PayloadMalformed):
            encode_payload(_status(**change))


# --- kinds and envelopes -----------------------------------------------------------------------


@every_kind
def test_payload_of_another_kind_is_refused(cls: type) -> None:
    data = encode_payload(sample(cls))
    for other in KINDS:
        if other is not cls:
            with pytest.raises((PayloadMalformed, Oversize)):
                decode_payload(payload_type_of(kind_of(cls)), data, other)
            with pytest.raises((PayloadMalformed, Oversize)):
                open_envelope(seal(identity(1), sample(cls)), other)


@pytest.mark.parametrize(
    "kind", ["", "commit", "application/vnd.ares.commit.v2+protobuf", "x" * 999]
)
def test_unknown_payload_type_is_refused(kind: str) -> None:
    with pytest.raises(PayloadMalformed):
        class_of(sign_payload(identity(1), kind, b""))
    with pytest.raises(PayloadMalformed):
        decode_payload(kind, b"", domain.Commit)


def test_relabelled_payload_does_not_verify() -> None:
    # an ack whose bytes also decode as another kind cannot be passed off as that kind
    ack = seal(identity(1), sample(domain.CommitAck))
    relabelled = dataclasses.replace(ack, payload_type=payload_type_of("commit"))
    with pytest.raises(BadSignature):
        open_envelope(relabelled, domain.Commit)


def test_open_envelope_checks_signer_and_network() -> None:
    envelope = seal(identity(1), sample(domain.Commit))
    network = sample(domain.Commit).header.network_id
    assert open_envelope(
        envelope, domain.Commit, signer=identity(1).peer_id, network_id=network
    ) == sample(domain.Commit)
    with pytest.raises(WrongSigner):
        open_envelope(envelope, domain.Commit, signer=identity(2).peer_id)
    with pytest.raises(WrongNetwork):
        open_envelope(envelope, domain.Commit, network_id="another")
    with pytest.raises(BadSignature):
        open_envelope(dataclasses.replace(envelope, payload=b""), domain.Commit)


def test_signature_is_checked_before_the_payload_is_decoded() -> None:
    unsigned = Envelope(
        payload_type_of("commit"), b"\xff garbage", identity(1).public_key, bytes(64)
    )
    with pytest.raises(BadSignature):
        open_envelope(unsigned, domain.Commit)
    weak = dataclasses.replace(unsigned, public_key=(1).to_bytes(32, "little"))
    with pytest.raises(WeakKey):
        open_envelope(weak, domain.Commit)


@pytest.mark.parametrize(
    "change",
    [{"public_key": b""}, {"public_key": bytes(33)}, {"signature": b""}, {"signature": bytes(65)}],
    ids=range(4),
)
def test_envelope_with_a_key_or_signature_of_another_length(change: dict[str, bytes]) -> None:
    envelope = dataclasses.replace(seal(identity(1), sample(domain.Commit)), **change)
    with pytest.raises(EnvelopeMalformed):
        decode_envelope(encode_envelope(envelope))


def test_commits_inside_a_commit_set_keep_their_bytes() -> None:
    peers = [identity(number) for number in range(2, 5)]
    received = tuple(
        encode_envelope(seal(peer, dataclasses.replace(sample(domain.Commit), steps=steps)))
        for steps, peer in enumerate(peers, 10)
    )
    commits = dataclasses.replace(sample(domain.CommitSet), commits=received)
    outer = decode_envelope(encode_envelope(seal(identity(1), commits)))
    opened = open_envelope(outer, domain.CommitSet, signer=identity(1).peer_id)
    assert opened.commits == received
    for steps, (peer, data) in enumerate(zip(peers, opened.commits, strict=True), 10):
        inner = decode_envelope(data, max_bytes=MAX_NESTED_BYTES)
        check_envelope(inner, signer=peer.peer_id)
        assert open_envelope(inner, domain.Commit).steps == steps


def test_fat_commit_cannot_keep_a_round_from_closing() -> None:
    # fields at their longest, or padding in a field that we do not know
    commit = sample(domain.Commit)
    with pytest.raises(Oversize):
        encode_payload(dataclasses.replace(commit, device="\u4e2d" * MAX_TEXT_CHARS))
    padding = b"\xfa\x7f\xd0\x0f" + bytes(2000)
    padded = sign_payload(identity(2), payload_type_of("commit"), encode_payload(commit) + padding)
    with pytest.raises(Oversize):
        open_envelope(padded, domain.Commit)
    largest = encode_payload(commit)
    largest += b"\xfa\x7f" + bytes([0x80 | ((MAX_COMMIT_BYTES - len(largest) - 4) & 0x7F)])
    largest += bytes([(MAX_COMMIT_BYTES - len(largest) - 1) >> 7])
    largest += bytes(MAX_COMMIT_BYTES - len(largest))
    envelope = sign_payload(identity(2), payload_type_of("commit"), largest)
    assert open_envelope(envelope, domain.Commit) == commit
    assert len(encode_envelope(envelope)) <= MAX_NESTED_BYTES
