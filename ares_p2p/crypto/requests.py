"""HTTP requests that a peer signs, so that a server knows whose tier to look at.

The header `Authorization: Ares-Worker <peer id>:<milliseconds>:<base64 signature>` signs network,
method, path with query, time and, where there is a body, its digest, which the request names in
`Content-Digest` (RFC 9530). It is good for a minute: a copy of it read on the way lets nobody do
more than the same once more, and everything that a signed body does may be done twice. Pure; the
caller brings the clock.
"""

from __future__ import annotations

import base64
import binascii

from ares_p2p.crypto.keys import Identity, check_signature
from ares_p2p.errors import BadSignature
from ares_p2p.ids import DIGEST_BYTES, Digest, PeerId, public_key_of

SCHEME = "Ares-Worker"
GOOD_FOR_MS = 60_000  # either way: clocks differ, requests travel
MAX_HEADER_CHARS = 256  # 52 of the id, 13 of the time, 88 of the signature
NO_BODY: Digest = b""
_DIGEST_HEAD, _DIGEST_TAIL = "sha-256=:", ":"


def _message(network_id: str, method: str, path: str, at_ms: int, body_sha256: Digest) -> bytes:
    parts = ["ares-request/1", network_id, method, path, str(at_ms)]
    return "\n".join([*parts, body_sha256.hex()] if body_sha256 else parts).encode()


def content_digest(body_sha256: Digest) -> str:
    """Return the value of the Content-Digest header of a body with this sha256."""
    return f"{_DIGEST_HEAD}{base64.b64encode(body_sha256).decode()}{_DIGEST_TAIL}"


def read_content_digest(header: str) -> Digest:
    """Return the sha256 that a Content-Digest header names.

    Raises: BadSignature: it names none, or more than that.
    """
    text = header.strip()
    if text.startswith(_DIGEST_HEAD) and text.endswith(_DIGEST_TAIL):
        try:
            digest = base64.b64decode(text[len(_DIGEST_HEAD) : -len(_DIGEST_TAIL)], validate=True)
        except (binascii.Error, ValueError):
            digest = b""
        if len(digest) == DIGEST_BYTES:
            return digest
    raise BadSignature("a Content-Digest header `sha-256=:base64:` of the body expected")


def sign_request(
    identity: Identity,
    *,
    network_id: str,
    method: str,
    path: str,
    now_ms: int,
    body_sha256: Digest = NO_BODY,
) -> str:
    """Return the value of the Authorization header of one request.

    Args:
        path: as it is sent, with the query.
        body_sha256: of the body, which must then be named in Content-Digest as well.
    """
    signature = identity.sign(_message(network_id, method, path, now_ms, body_sha256))
    return f"{SCHEME} {identity.peer_id}:{now_ms}:{base64.b64encode(signature).decode()}"


def check_request(
    header: str,
    *,
    network_id: str,
    method: str,
    path: str,
    now_ms: int,
    body_sha256: Digest = NO_BODY,
) -> PeerId:
    """Return who signed a request. That the body has the digest is the caller's to check.

    Raises: BadSignature: malformed, too old, or signed for something else. WeakKey.
    """
    scheme, _, rest = header.partition(" ")
    parts = rest.split(":")
    if scheme != SCHEME or len(header) > MAX_HEADER_CHARS or len(parts) != 3:
        raise BadSignature(f"an Authorization header `{SCHEME} id:milliseconds:signature` expected")
    peer, time_text, signature_text = parts
    if not (time_text.isascii() and time_text.isdigit()):
        raise BadSignature("the time of a signed request is a number of milliseconds")
    at_ms = int(time_text)
    if abs(now_ms - at_ms) > GOOD_FOR_MS:
        raise BadSignature(
            f"the request was signed {abs(now_ms - at_ms) / 1000:.0f} s from now, at most "
            f"{GOOD_FOR_MS // 1000} s are allowed",
            hint="Set the clock of this machine, then try again.",
        )
    try:
        signature = base64.b64decode(signature_text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadSignature("the signature of a request is base64") from error
    key = public_key_of(peer)
    check_signature(key, _message(network_id, method, path, at_ms, body_sha256), signature)
    return PeerId(peer)
