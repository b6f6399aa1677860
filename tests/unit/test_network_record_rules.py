"""Who may write what: the rules, attacked one by one. No network, no hivemind."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ares_p2p.crypto.envelope import Envelope
from ares_p2p.crypto.keys import Identity
from ares_p2p.domain import (
    Commit,
    CommitAck,
    CycleConfig,
    NetworkDescriptor,
    PeerStatus,
    RoundPlan,
)
from ares_p2p.errors import (
    AresError,
    BadSignature,
    EnvelopeMalformed,
    HashMismatch,
    Oversize,
    PayloadMalformed,
    StaleSequence,
    WeakKey,
    WrongNetwork,
    WrongSigner,
)
from ares_p2p.ids import sha256
from ares_p2p.network.invite import Invite
from ares_p2p.network.record_guard import RecordGuard
from ares_p2p.network.record_keys import (
    CHUNK_LIFETIME_S,
    MAX_CHUNK_BYTES,
    RECORD_KINDS,
    RecordKey,
    bucket_of,
    dht_id_of,
    key_of_chunk,
    key_of_kind,
    key_of_payload,
    msgpack_text,
)
from ares_p2p.network.record_rules import (
    CHUNK_TAG,
    ENVELOPE_TAG,
    MAX_SKEW_S,
    MAX_VALUE_BYTES,
    CheckedChunk,
    CheckedEnvelope,
    RawRecord,
    check_record,
    encode_chunk,
    encode_stored_envelope,
)
from ares_p2p.wire.codec import class_of, decode_payload
from ares_p2p.wire.v1 import ares_pb2 as pb
from netfixtures import ALICE, BOB, COORDINATOR, MALLORY, NETWORK, payload, signed

NOW_S = 1_700_000_000.0


def record(
    envelope: Envelope,
    *,
    publisher: Identity,
    lifetime_s: float = 100.0,
    key: str | None = None,
    subkey: str | bool | None = True,
) -> RawRecord:
    """Return a stored envelope under its own key, or under another."""
    cls = class_of(envelope)
    inside = decode_payload(envelope.payload_type, envelope.payload, cls)
    own = key_of_payload(inside, signer=envelope.signer)
    place = RecordKey(key or own.key, own.subkey if subkey is True else subkey or None)  # type: ignore[arg-type]
    expiration_s = NOW_S + lifetime_s
    value = encode_stored_envelope(envelope, place, publisher=publisher, expiration_s=expiration_s)
    return RawRecord(dht_id_of(place.key), place.subkey, value, expiration_s)


def check(raw: RawRecord) -> Any:
    return check_record(raw, network=NETWORK, now_s=NOW_S)


# --- keys --------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "a", "x" * 31, "x" * 32, "x" * 255, "x" * 300, "ä" * 20])
def test_keys_hash_as_hivemind_hashes_them(text: str) -> None:
    from hivemind.dht.routing import DHTID
    from hivemind.utils import MSGPackSerializer

    assert dht_id_of(text) == DHTID.generate(source=text).to_bytes()
    assert msgpack_text(text) == MSGPackSerializer.dumps(text)


def test_every_kind_has_its_own_key() -> None:
    keys = {
        key_of_kind(cls, network_id="n", cycle=1, round=2, bucket=3) for cls in RECORD_KINDS
    } | {key_of_kind(cls, network_id="m", cycle=1, round=2, bucket=3) for cls in RECORD_KINDS}
    assert len(keys) == 2 * len(RECORD_KINDS)
    assert key_of_kind(CycleConfig, network_id="n", cycle=1) == "ares/n/cycle"
    assert key_of_kind(RoundPlan, network_id="n", cycle=1, round=9) == "ares/n/plan/1"
    assert key_of_kind(Commit, network_id="n", cycle=1, round=9, bucket=4) == "ares/n/commit/1/9/b4"


def test_buckets_are_used_evenly() -> None:
    counts = [0] * 16
    for number in range(1600):
        counts[bucket_of(Identity.from_seed(struct.pack(">32xI", number)[-32:]).peer_id, 16)] += 1
    assert min(counts) > 50  # 100 on average; a Poisson tail of 1e-8


def test_what_is_no_record_has_no_key() -> None:
    with pytest.raises(PayloadMalformed):
        key_of_payload(payload(CommitAck), signer=COORDINATOR.peer_id)


# --- the rules ---------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", RECORD_KINDS, ids=lambda cls: cls.__name__)
def test_rightful_records_pass(cls: type) -> None:
    who = ALICE if RECORD_KINDS[cls].by_peers else COORDINATOR
    envelope = signed(who, cls, cycle=3, round=7)
    checked = check(record(envelope, publisher=who))
    assert isinstance(checked, CheckedEnvelope)
    assert checked.envelope == envelope
    assert checked.payload == payload(cls, cycle=3, round=7)


@pytest.mark.parametrize(
    "cls",
    [cls for cls, kind in RECORD_KINDS.items() if not kind.by_peers],
    ids=lambda c: c.__name__,
)
def test_nobody_speaks_for_the_coordinator(cls: type) -> None:
    with pytest.raises(WrongSigner):
        check(record(signed(MALLORY, cls), publisher=MALLORY))


def test_a_commit_goes_under_its_signers_subkey_only() -> None:
    envelope = signed(MALLORY, Commit)
    with pytest.raises(WrongSigner):
        check(record(envelope, publisher=MALLORY, subkey=ALICE.peer_id))
    with pytest.raises(WrongSigner):  # as a plain value it would erase the whole dictionary
        check(record(envelope, publisher=MALLORY, subkey=None))


def test_a_coordinators_record_is_no_dictionary() -> None:
    with pytest.raises(WrongSigner):
        check(record(signed(COORDINATOR, RoundPlan), publisher=COORDINATOR, subkey=ALICE.peer_id))


@pytest.mark.parametrize("changes", [{"cycle": 2}, {"round": 8}, {"cycle": 1, "round": 8}])
def test_a_commit_of_another_round_is_no_commit_here(changes: dict[str, int]) -> None:
    own = key_of_payload(payload(Commit, cycle=1, round=7), signer=ALICE.peer_id)
    envelope = signed(ALICE, Commit, **({"cycle": 1, "round": 7} | changes))
    with pytest.raises(PayloadMalformed, match="another key"):
        check(record(envelope, publisher=ALICE, key=own.key))


def test_another_network_is_another_world() -> None:
    other = Invite("other", COORDINATOR.peer_id).network
    with pytest.raises(WrongNetwork):
        check(record(signed(COORDINATOR, RoundPlan, network=other), publisher=COORDINATOR))


def test_the_descriptor_names_its_own_network() -> None:
    with pytest.raises(WrongNetwork):
        check(record(signed(COORDINATOR, NetworkDescriptor, name="else"), publisher=COORDINATOR))
    envelope = signed(COORDINATOR, NetworkDescriptor, coordinator=MALLORY.peer_id)
    with pytest.raises(WrongNetwork):
        check(record(envelope, publisher=COORDINATOR))


def test_forged_signatures_are_refused() -> None:
    good = signed(ALICE, PeerStatus)
    forged = Envelope(good.payload_type, good.payload, good.public_key, bytes(64))
    with pytest.raises(BadSignature):
        check(record(forged, publisher=ALICE))


def test_keys_of_small_order_are_refused() -> None:
    good = signed(ALICE, PeerStatus)
    identity_point = b"\x01" + bytes(31)
    weak = Envelope(good.payload_type, good.payload, identity_point, identity_point + bytes(32))
    with pytest.raises(WeakKey):
        check(record(weak, publisher=ALICE))


# --- the lease ---------------------------------------------------------------------------------


def test_the_coordinator_may_publish_for_a_peer() -> None:
    assert check(record(signed(ALICE, Commit), publisher=COORDINATOR))


def test_nobody_else_may_extend_a_record() -> None:
    with pytest.raises(WrongSigner):
        check(record(signed(ALICE, Commit), publisher=BOB))


def test_a_lease_fits_one_expiration_only() -> None:
    raw = record(signed(ALICE, Commit), publisher=ALICE)
    for expiration_s in (raw.expiration_s + 1, math.nextafter(raw.expiration_s, math.inf)):
        with pytest.raises(BadSignature):
            check(RawRecord(raw.dht_id, raw.subkey, raw.value, expiration_s))


def test_a_lease_fits_one_envelope_only() -> None:
    old, new = signed(ALICE, PeerStatus, seq=1), signed(ALICE, PeerStatus, seq=2)
    longer = pb.StoredEnvelope()
    longer.ParseFromString(record(new, publisher=ALICE, lifetime_s=90).value[1:])
    mixed = pb.StoredEnvelope()
    mixed.ParseFromString(record(old, publisher=ALICE, lifetime_s=80).value[1:])
    mixed.lease = longer.lease
    raw = record(new, publisher=ALICE, lifetime_s=90)
    with pytest.raises(BadSignature):
        check(
            RawRecord(
                raw.dht_id, raw.subkey, ENVELOPE_TAG + mixed.SerializeToString(), raw.expiration_s
            )
        )


@pytest.mark.parametrize("cls", RECORD_KINDS, ids=lambda cls: cls.__name__)
def test_lifetimes_are_capped(cls: type) -> None:
    kind = RECORD_KINDS[cls]
    who = ALICE if kind.by_peers else COORDINATOR
    longest = kind.lifetime_s + MAX_SKEW_S
    assert check(record(signed(who, cls), publisher=who, lifetime_s=longest))
    for lifetime_s in (longest + 1, 1e9, math.inf, math.nan):
        with pytest.raises(PayloadMalformed):
            check(record(signed(who, cls), publisher=who, lifetime_s=lifetime_s))


def test_expired_records_are_not_refused() -> None:
    # hivemind drops them; refusing one entry would refuse its whole dictionary
    assert check(record(signed(ALICE, Commit), publisher=ALICE, lifetime_s=-1000))


# --- chunks ------------------------------------------------------------------------------------


def chunk_record(data: bytes, *, named: bytes | None = None, lifetime_s: float = 9.0) -> RawRecord:
    key = key_of_chunk(sha256(data if named is None else named), network_id=NETWORK.network_id)
    return RawRecord(dht_id_of(key), None, CHUNK_TAG + data, NOW_S + lifetime_s)


def test_chunks_lie_under_their_hash() -> None:
    checked = check(chunk_record(b"content"))
    assert isinstance(checked, CheckedChunk)
    assert (checked.data, checked.sha256) == (b"content", sha256(b"content"))
    with pytest.raises(HashMismatch):
        check(chunk_record(b"content", named=b"other"))
    raw = chunk_record(b"content")
    with pytest.raises(HashMismatch):
        check(RawRecord(raw.dht_id, ALICE.peer_id, raw.value, raw.expiration_s))


def test_chunks_are_bounded() -> None:
    assert check(chunk_record(bytes(MAX_CHUNK_BYTES)))
    with pytest.raises(Oversize):
        check(chunk_record(bytes(MAX_CHUNK_BYTES + 1)))
    with pytest.raises(Oversize):
        encode_chunk(bytes(MAX_CHUNK_BYTES + 1))
    with pytest.raises(PayloadMalformed):
        check(chunk_record(b"x", lifetime_s=CHUNK_LIFETIME_S + MAX_SKEW_S + 1))


# --- garbage -----------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_garbage_is_refused_with_a_code(data: bytes) -> None:
    for tag in (b"", ENVELOPE_TAG, CHUNK_TAG):
        with pytest.raises(AresError):
            check(RawRecord(bytes(20), None, tag + data, NOW_S))


@given(st.data())
def test_a_flipped_bit_is_refused(data: st.DataObject) -> None:
    raw = record(signed(ALICE, Commit), publisher=ALICE)
    place = data.draw(st.integers(0, len(raw.value) - 1))
    bit = data.draw(st.integers(0, 7))
    value = bytearray(raw.value)
    value[place] ^= 1 << bit
    with pytest.raises(AresError):
        check(RawRecord(raw.dht_id, raw.subkey, bytes(value), raw.expiration_s))


def test_values_are_bounded_before_anything_else() -> None:
    with pytest.raises(Oversize):
        check(RawRecord(bytes(20), None, ENVELOPE_TAG + bytes(MAX_VALUE_BYTES), NOW_S))
    with pytest.raises(EnvelopeMalformed):
        check(RawRecord(bytes(20), None, b"", NOW_S))


def test_what_peers_write_is_small() -> None:
    blobs = tuple(sha256(bytes([number])) for number in range(120))
    assert check(record(signed(ALICE, PeerStatus, held_blobs=blobs[:60]), publisher=ALICE))
    with pytest.raises(Oversize):
        check(record(signed(ALICE, PeerStatus, held_blobs=blobs), publisher=ALICE))


# --- memory ------------------------------------------------------------------------------------


def guard() -> RecordGuard:
    return RecordGuard(NETWORK, now_s=lambda: NOW_S)


def plan(seq: int, *, cycle: int = 1, **changes: Any) -> RawRecord:
    envelope = signed(COORDINATOR, RoundPlan, cycle=cycle, seq=seq, **changes)
    return record(envelope, publisher=COORDINATOR)


def test_a_guard_never_goes_back() -> None:
    keeper = guard()
    keeper.check(plan(5))
    keeper.check(plan(5))
    keeper.check(plan(6))
    with pytest.raises(StaleSequence):
        keeper.check(plan(5))  # it passed before: remembered values are no way around
    with pytest.raises(StaleSequence):
        keeper.check(plan(4))
    keeper.check(plan(1, cycle=2))  # another key
    assert not keeper.is_allowed(plan(3))
    assert keeper.refused[StaleSequence.code] == 1


def test_a_guard_believes_the_first_of_two_with_one_seq() -> None:
    keeper = guard()
    keeper.check(plan(5))
    with pytest.raises(StaleSequence):
        keeper.check(plan(5, min_steps=11))


def test_a_cycle_beats_a_seq() -> None:
    keeper = guard()
    old = signed(COORDINATOR, CycleConfig, cycle=1, seq=99)
    new = signed(COORDINATOR, CycleConfig, cycle=2, seq=1)
    keeper.check(record(new, publisher=COORDINATOR))
    with pytest.raises(StaleSequence):
        keeper.check(record(old, publisher=COORDINATOR))


def test_stale_subkeys_are_left_to_their_lease() -> None:
    # else one stale entry would make hivemind refuse its whole dictionary
    keeper = guard()
    keeper.check(record(signed(ALICE, PeerStatus, seq=9), publisher=ALICE))
    keeper.check(record(signed(ALICE, PeerStatus, seq=3), publisher=ALICE))


def test_a_guards_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ares_p2p.network.record_guard.REMEMBERED_KEYS", 3)
    monkeypatch.setattr("ares_p2p.network.record_guard.REMEMBERED_VALUES", 3)
    keeper = guard()
    for cycle in range(10):
        keeper.check(plan(1, cycle=cycle))
    assert len(keeper._newest) == len(keeper._passed) == 3
