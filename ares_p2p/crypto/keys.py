"""One Ed25519 identity per node: it runs `p2pd` and signs everything the node says.

The file is libp2p's own format (protobuf `PrivateKey{type=Ed25519, data=seed || public key}`),
so the same file is given to `p2pd`. It refuses files that others may read, and public keys of
small order: under the identity point one signature fits every message.

Source: libp2p peer id specification, "Keys"; RFC 8032; docs/adr/0002.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.bindings import crypto_core_ed25519_is_valid_point
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from ares_p2p.errors import BadSignature, ConfigFault, KeyFileMalformed, KeyFileTooOpen, WeakKey
from ares_p2p.ids import PUBLIC_KEY_BYTES, PeerId, peer_id_of

SEED_BYTES = 32
SIGNATURE_BYTES = 64
_LIBP2P_PREFIX = bytes([0x08, 0x01, 0x12, 0x40])  # type = Ed25519, data = 64 bytes
_FILE_BYTES = len(_LIBP2P_PREFIX) + 2 * SEED_BYTES


@dataclass(frozen=True, slots=True)
class Identity:
    """A node's private key. Its repr shows the peer id only."""

    private_key: Ed25519PrivateKey

    def __repr__(self) -> str:
        return f"Identity({self.peer_id})"

    @staticmethod
    def generate() -> Identity:
        """Return a new identity from the system's randomness."""
        return Identity(Ed25519PrivateKey.generate())

    @staticmethod
    def from_seed(seed: bytes) -> Identity:
        """Return the identity of a 32-byte seed (RFC 8032's private key)."""
        if len(seed) != SEED_BYTES:
            raise KeyFileMalformed(f"seed of {len(seed)} bytes, {SEED_BYTES} expected")
        return Identity(Ed25519PrivateKey.from_private_bytes(seed))

    @property
    def public_key(self) -> bytes:
        """The 32-byte public key."""
        return self.private_key.public_key().public_bytes_raw()

    @property
    def peer_id(self) -> PeerId:
        """The libp2p peer id that embeds the public key."""
        return peer_id_of(self.public_key)

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of `message`."""
        return self.private_key.sign(message)

    def to_libp2p(self) -> bytes:
        """Return the key in libp2p's format, 68 bytes."""
        return _LIBP2P_PREFIX + self.private_key.private_bytes_raw() + self.public_key

    @staticmethod
    def from_libp2p(data: bytes) -> Identity:
        """Return the identity that `data` holds.

        Raises: KeyFileMalformed: another type of key, another length, or a public half that
            does not belong to the private one.
        """
        if len(data) != _FILE_BYTES or not data.startswith(_LIBP2P_PREFIX):
            raise KeyFileMalformed("not an Ed25519 key in libp2p's format")
        identity = Identity.from_seed(data[4 : 4 + SEED_BYTES])
        if identity.public_key != data[4 + SEED_BYTES :]:
            raise KeyFileMalformed("the key file's public half does not fit its private half")
        return identity


def load_identity(path: Path) -> Identity:
    """Return the identity in `path`.

    Raises: KeyFileTooOpen: group or others have any right on it. KeyFileMalformed: not a key.
        ConfigFault: there is no such file, or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)  # of what is read, not of a name
            data = file.read(_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigFault(f"no identity can be read from {path}: {error.strerror}") from error
    if mode & 0o077:
        raise KeyFileTooOpen(
            f"{path} has mode {mode:04o}, 0600 expected: others may read your identity",
            hint=f"chmod 600 {path}",
        )
    try:
        return Identity.from_libp2p(data)
    except KeyFileMalformed as error:
        raise KeyFileMalformed(
            f"{path}: {error.message}", hint="Restore it from a backup; a new key is a new peer."
        ) from error


def save_identity(identity: Identity, path: Path) -> None:
    """Write the identity to `path` with mode 0600, complete or not at all, never over a file.

    Raises: ConfigFault: the file exists.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # a name of its own, mode 0600: two threads that shared one would write into each other's key
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(identity.to_libp2p())
            file.flush()
            os.fsync(file.fileno())
        os.link(name, path)  # fails when the file is there: a key is never overwritten
    except FileExistsError as error:
        raise ConfigFault(f"{path} exists; an identity is never overwritten") from error
    finally:
        Path(name).unlink()


def load_or_create_identity(path: Path) -> Identity:
    """Return the identity in `path`, made there on the first call."""
    if not path.exists():
        with contextlib.suppress(ConfigFault):  # another process was faster: read its key
            save_identity(Identity.generate(), path)
    return load_identity(path)


def check_public_key(public_key: bytes) -> None:
    """Refuse keys under which a signature proves nothing.

    Raises: WeakKey: wrong length, not a point in canonical form, small order, or outside the
        prime-order subgroup.
    """
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise WeakKey(f"public key of {len(public_key)} bytes, {PUBLIC_KEY_BYTES} expected")
    if not _has_prime_order(public_key):
        raise WeakKey(f"public key {public_key.hex()[:16]}... is no point of prime order")


@lru_cache(maxsize=8192)  # as long as a signature takes, and the same peers sign again and again
def _has_prime_order(public_key: bytes) -> bool:
    return crypto_core_ed25519_is_valid_point(public_key)


def check_signature(public_key: bytes, message: bytes, signature: bytes) -> None:
    """Verify an Ed25519 signature with libsodium, after checking the key.

    Raises: WeakKey, BadSignature.
    """
    check_public_key(public_key)
    if len(signature) != SIGNATURE_BYTES:
        raise BadSignature(f"signature of {len(signature)} bytes, {SIGNATURE_BYTES} expected")
    try:
        VerifyKey(public_key).verify(message, signature)
    except BadSignatureError as error:
        raise BadSignature("the signature does not fit the payload and its signer") from error
