"""Signed envelopes: DSSE, with the signer's key inside.

The signature covers `PAE(payload_type, payload)`, so a payload can never be read as another
kind. The payload is bytes and stays bytes: nothing is serialized again to be verified.

Source: DSSE v1 (github.com/secure-systems-lab/dsse, protocol.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from ares_p2p.crypto.keys import Identity, check_signature
from ares_p2p.errors import WrongSigner
from ares_p2p.ids import Digest, PeerId, peer_id_of, sha256


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload and who signed it. Not yet verified: call `check_envelope`."""

    payload_type: str
    payload: bytes
    public_key: bytes
    signature: bytes

    @property
    def signer(self) -> PeerId:
        """The peer id of the key inside."""
        return peer_id_of(self.public_key)

    @property
    def payload_sha256(self) -> Digest:
        """What other messages refer to: sha256 over the key and PAE(payload_type, payload).

        The key is in it, so that nobody can sign another one's payload and own its digest.
        """
        encoded = pre_authentication_encoding(self.payload_type, self.payload)
        return sha256(self.public_key, encoded)


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """Return DSSE's PAE: "DSSEv1" SP LEN(type) SP type SP LEN(body) SP body."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign_payload(identity: Identity, payload_type: str, payload: bytes) -> Envelope:
    """Return `payload` signed by `identity`."""
    signature = identity.sign(pre_authentication_encoding(payload_type, payload))
    return Envelope(payload_type, payload, identity.public_key, signature)


def check_envelope(envelope: Envelope, *, signer: PeerId | None = None) -> None:
    """Verify the signature and, when given, that `signer` made it.

    Raises: WrongSigner, WeakKey, BadSignature.
    """
    if signer is not None and envelope.signer != signer:
        raise WrongSigner(f"signed by {envelope.signer}, {signer} expected")
    check_signature(
        envelope.public_key,
        pre_authentication_encoding(envelope.payload_type, envelope.payload),
        envelope.signature,
    )
