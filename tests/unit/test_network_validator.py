"""The rules as hivemind runs them: MessagePack, dictionaries, pickling."""

from __future__ import annotations

import time

import pytest
from hivemind.dht.validation import CompositeValidator, DHTRecord
from hivemind.utils import MSGPackSerializer
from hivemind.utils.serializer import MSGPackSerializer as Serializer
from hypothesis import given
from hypothesis import strategies as st

from ares_p2p.crypto.keys import Identity
from ares_p2p.domain import Commit, RoundPlan
from ares_p2p.errors import AresError, EnvelopeMalformed, Oversize
from ares_p2p.network.invite import Invite
from ares_p2p.network.record_keys import dht_id_of, key_of_payload
from ares_p2p.network.record_rules import MAX_VALUE_BYTES, encode_stored_envelope
from ares_p2p.network.validator import AresRecordValidator, unpack_bytes, unpack_subkey
from netfixtures import ALICE, COORDINATOR, MALLORY, NETWORK, payload, signed


def dht_record(who: Identity, cls: type, *, subkey: str | None = None) -> DHTRecord:
    envelope = signed(who, cls)
    key = key_of_payload(payload(cls), signer=who.peer_id)
    expiration_s = time.time() + 60
    value = encode_stored_envelope(envelope, key, publisher=who, expiration_s=expiration_s)
    return DHTRecord(
        dht_id_of(key.key),
        MSGPackSerializer.dumps(subkey or key.subkey),
        MSGPackSerializer.dumps(value),
        expiration_s,
    )


def test_rightful_records_pass_and_others_are_counted() -> None:
    validator = AresRecordValidator(NETWORK)
    assert validator.validate(dht_record(COORDINATOR, RoundPlan))
    assert validator.validate(dht_record(ALICE, Commit))
    assert not validator.validate(dht_record(MALLORY, RoundPlan))
    assert not validator.validate(dht_record(MALLORY, Commit, subkey=ALICE.peer_id))
    assert validator.refused.total() == 2


@given(st.binary(max_size=300), st.binary(max_size=60), st.floats(), st.binary(max_size=20))
def test_garbage_never_raises(value: bytes, subkey: bytes, expiration: float, key: bytes) -> None:
    validator = AresRecordValidator(NETWORK)
    for packed in (value, MSGPackSerializer.dumps(value)):
        assert not validator.validate(DHTRecord(key, subkey, packed, expiration))


@given(st.binary(max_size=70_000))
def test_values_unpack_as_hivemind_unpacks_them(data: bytes) -> None:
    packed = Serializer.dumps(data)
    if len(data) <= MAX_VALUE_BYTES:
        assert unpack_bytes(packed) == data == Serializer.loads(packed)
    else:
        with pytest.raises(Oversize):
            unpack_bytes(packed)


@pytest.mark.parametrize(
    "value", [None, 1, "text", [1], {"a": b"b"}, [b"x"], b"x"], ids=lambda value: repr(value)[:20]
)
def test_only_one_byte_string_is_a_value(value: object) -> None:
    packed = Serializer.dumps(value)
    if value == b"x":
        assert unpack_bytes(packed) == b"x"
        packed += b"\x00"  # hivemind's parser would choke on the rest, and the search hang
    with pytest.raises(EnvelopeMalformed):
        unpack_bytes(packed)


def test_only_peer_ids_are_subkeys() -> None:
    assert unpack_subkey(Serializer.dumps(None)) is None
    assert unpack_subkey(Serializer.dumps(str(ALICE.peer_id))) == ALICE.peer_id
    for other in ("", "x", str(ALICE.peer_id) + "x", ALICE.peer_id.encode(), 7, [ALICE.peer_id]):
        with pytest.raises(AresError):
            unpack_subkey(Serializer.dumps(other))
    with pytest.raises(AresError):
        unpack_subkey(b"")


def test_one_network_merges_with_itself_only() -> None:
    other = Invite("other", COORDINATOR.peer_id).network
    composite = CompositeValidator([AresRecordValidator(NETWORK), AresRecordValidator(NETWORK)])
    assert len(composite._validators) == 1
    composite.extend([AresRecordValidator(other)])
    assert len(composite._validators) == 2
