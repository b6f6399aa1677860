"""DSSE envelopes: PAE's known answers, and nothing else fits a signature."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ares_p2p.crypto.envelope import (
    Envelope,
    check_envelope,
    pre_authentication_encoding,
    sign_payload,
)
from ares_p2p.errors import BadSignature, PayloadMalformed, PeerFault, WeakKey, WrongSigner
from ares_p2p.ids import sha256
from payloads import identity

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "crypto.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("vector", VECTORS["pae"], ids=lambda vector: vector["source"])
def test_pae_known_answers(vector: dict[str, str]) -> None:
    encoded = pre_authentication_encoding(vector["type"], bytes.fromhex(vector["payload"]))
    assert encoded.hex() == vector["pae"]


@given(st.text(max_size=20), st.binary(max_size=20), st.text(max_size=20), st.binary(max_size=20))
def test_pae_is_injective(kind: str, body: bytes, other_kind: str, other_body: bytes) -> None:
    same = pre_authentication_encoding(kind, body) == pre_authentication_encoding(
        other_kind, other_body
    )
    assert same == ((kind, body) == (other_kind, other_body))


def test_type_and_payload_cannot_trade_bytes() -> None:
    assert pre_authentication_encoding("a b", b"c") != pre_authentication_encoding("a", b"b c")


@pytest.mark.parametrize("vector", VECTORS["envelope"], ids=lambda vector: vector["source"])
def test_envelope_golden_vector(vector: dict[str, str]) -> None:
    envelope = sign_payload(identity(1), vector["type"], bytes.fromhex(vector["payload"]))
    assert envelope.signature.hex() == vector["signature"]
    assert envelope.payload_sha256.hex() == vector["payload_sha256"]
    check_envelope(envelope)
    check_envelope(envelope, signer=identity(1).peer_id)


GOOD = sign_payload(identity(1), "application/x", b"payload")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"payload_type": "application/y"}, BadSignature),
        ({"payload_type": ""}, BadSignature),
        ({"payload": b"payloaD"}, BadSignature),
        ({"payload": b""}, BadSignature),
        ({"public_key": identity(2).public_key}, BadSignature),
        (
            {"signature": sign_payload(identity(2), "application/x", b"payload").signature},
            BadSignature,
        ),
        ({"signature": identity(1).sign(b"payload")}, BadSignature),  # signed without PAE
        ({"signature": b""}, BadSignature),
        ({"public_key": (1).to_bytes(32, "little")}, WeakKey),
    ],
    ids=range(9),
)
def test_changed_envelope_is_refused(change: dict[str, Any], fault: type[PeerFault]) -> None:
    check_envelope(GOOD)
    with pytest.raises(fault):
        check_envelope(dataclasses.replace(GOOD, **change))


def test_valid_signature_of_somebody_else_is_refused() -> None:
    with pytest.raises(WrongSigner):
        check_envelope(GOOD, signer=identity(2).peer_id)


def test_claiming_a_key_does_not_make_the_signature() -> None:
    forged = Envelope(GOOD.payload_type, GOOD.payload, identity(2).public_key, GOOD.signature)
    with pytest.raises(BadSignature):
        check_envelope(forged, signer=identity(2).peer_id)


def test_key_of_another_length_is_a_peer_fault() -> None:
    for signer in (None, identity(1).peer_id):
        with pytest.raises((PayloadMalformed, WeakKey)):
            check_envelope(dataclasses.replace(GOOD, public_key=bytes(31)), signer=signer)


def test_payload_sha256_covers_the_signer() -> None:
    other = sign_payload(identity(2), GOOD.payload_type, GOOD.payload)
    assert other.payload_sha256 != GOOD.payload_sha256


def test_payload_sha256_covers_the_type() -> None:
    other = dataclasses.replace(GOOD, payload_type="application/y")
    assert other.payload_sha256 != GOOD.payload_sha256
    assert GOOD.payload_sha256 == sha256(GOOD.public_key, b"DSSEv1 13 application/x 7 payload")
