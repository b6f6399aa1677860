"""Identities: libp2p's file format, who may read the file, and keys that prove nothing."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ares_p2p.crypto.keys import (
    Identity,
    check_public_key,
    check_signature,
    load_identity,
    load_or_create_identity,
    save_identity,
)
from ares_p2p.errors import BadSignature, ConfigFault, KeyFileMalformed, KeyFileTooOpen, WeakKey
from ares_p2p.ids import public_key_of
from payloads import identity

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "crypto.json").read_text(encoding="utf-8")
)
ORDER = 2**252 + 27742317777372353535851937790883648493  # of Ed25519's prime-order subgroup


@pytest.mark.parametrize("vector", VECTORS["identity"], ids=lambda vector: vector["source"])
def test_identity_known_answers(vector: dict[str, str]) -> None:
    one = Identity.from_seed(bytes.fromhex(vector["seed"]))
    assert one.public_key.hex() == vector["public_key"]
    assert one.peer_id == vector["peer_id"]
    assert one.to_libp2p().hex() == vector["libp2p"]
    assert one.sign(bytes.fromhex(vector["message"])).hex() == vector["signature"]
    again = Identity.from_libp2p(bytes.fromhex(vector["libp2p"]))
    assert again.peer_id == one.peer_id
    assert public_key_of(one.peer_id) == one.public_key


def test_repr_shows_no_secret() -> None:
    one = identity(1)
    seed = one.private_key.private_bytes_raw()
    assert repr(one) == str(one) == f"Identity({one.peer_id})"
    assert seed.hex() not in repr(one)


def test_new_identities_differ() -> None:
    assert Identity.generate().peer_id != Identity.generate().peer_id


# --- the file ----------------------------------------------------------------------------------


def test_saved_identity_is_private_and_the_same(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "identity.key"
    old = os.umask(0)  # the mode may not depend on it
    try:
        save_identity(identity(1), path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == identity(1).to_libp2p()
    assert load_identity(path).peer_id == identity(1).peer_id
    assert list(path.parent.iterdir()) == [path]  # nothing half-written stays


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o777])
def test_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.key"
    save_identity(identity(1), path)
    path.chmod(mode)
    with pytest.raises(KeyFileTooOpen) as caught:
        load_identity(path)
    assert caught.value.hint == f"chmod 600 {path}"
    path.chmod(0o400)
    load_identity(path)


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o600)
    return path


GOOD = identity(1).to_libp2p()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        GOOD[:-1],
        GOOD + b"\n",
        b"\x08\x00" + GOOD[2:],  # RSA
        b"\x08\x02" + GOOD[2:],  # secp256k1
        GOOD[4:],
        GOOD[:36] + identity(2).public_key,  # somebody else's public half
        GOOD[:4] + bytes(64),
        b"-----BEGIN PRIVATE KEY-----\n" + bytes(40),
        bytes(10_000_000),
    ],
    ids=range(10),
)
def test_malformed_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = _write(tmp_path / "identity.key", data)
    with pytest.raises(KeyFileMalformed, match=r"identity\.key"):
        load_identity(path)
    with pytest.raises(KeyFileMalformed):
        load_or_create_identity(path)  # a broken key is no reason for a new one
    assert path.read_bytes() == data


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_seed_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(KeyFileMalformed):
        Identity.from_seed(bytes(length))


def test_missing_file_is_a_fault_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match=r"none\.key"):
        load_identity(tmp_path / "none.key")
    with pytest.raises(ConfigFault):
        load_identity(tmp_path)


def test_identity_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    save_identity(identity(1), path)
    with pytest.raises(ConfigFault, match="never overwritten"):
        save_identity(identity(2), path)
    assert path.read_bytes() == identity(1).to_libp2p()
    assert list(tmp_path.iterdir()) == [path]


def test_load_or_create_keeps_the_first(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    first = load_or_create_identity(path)
    assert load_or_create_identity(path).peer_id == first.peer_id


def test_concurrent_creation_agrees_on_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for attempt in range(30):
            path = tmp_path / f"{attempt}.key"
            found = list(pool.map(lambda _, path=path: load_or_create_identity(path), range(8)))
            assert {one.peer_id for one in found} == {load_identity(path).peer_id}


# --- keys and signatures that prove nothing -----------------------------------------------------


@pytest.mark.parametrize("key", VECTORS["small_order_keys"])
def test_small_order_key_is_refused(key: str) -> None:
    with pytest.raises(WeakKey):
        check_public_key(bytes.fromhex(key))
    identity_point = (1).to_bytes(32, "little")
    with pytest.raises(WeakKey):
        check_signature(bytes.fromhex(key), b"message", identity_point + bytes(32))


def test_one_signature_fits_every_message_elsewhere_but_not_here() -> None:
    # R = identity, S = 0: S*B == R + H(R, A, M)*A holds for every M when A is the identity
    key = (1).to_bytes(32, "little")
    signature = key + bytes(32)
    for message in (b"pay me", b"pay me twice"):
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)  # accepted there
        with pytest.raises(WeakKey):
            check_signature(key, message, signature)


@pytest.mark.parametrize("key", VECTORS["refused_keys"], ids=lambda vector: vector["why"])
def test_other_unsound_keys_are_refused(key: dict[str, str]) -> None:
    with pytest.raises(WeakKey):
        check_public_key(bytes.fromhex(key["key"]))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(WeakKey):
        check_public_key(bytes(length))


def test_signature_fits_its_message_and_key_only() -> None:
    one, message = identity(1), b"a message"
    signature = one.sign(message)
    check_signature(one.public_key, message, signature)
    for key, text, sig in [
        (one.public_key, b"another", signature),
        (identity(2).public_key, message, signature),
        (one.public_key, message, signature[:-1]),
        (one.public_key, message, signature + b"\0"),
        (one.public_key, message, b""),
        (one.public_key, message, bytes(64)),
        *((one.public_key, message, _flipped(signature, bit)) for bit in range(0, 512, 7)),
    ]:
        with pytest.raises(BadSignature):
            check_signature(key, text, sig)


def test_signature_has_one_form_only() -> None:
    # S + L is the same number modulo the group's order: accepting it makes signatures malleable
    one, message = identity(1), b"a message"
    signature = one.sign(message)
    other = int.from_bytes(signature[32:], "little") + ORDER
    with pytest.raises(BadSignature):
        check_signature(one.public_key, message, signature[:32] + other.to_bytes(32, "little"))


def _flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
