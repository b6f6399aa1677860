"""Requests that a peer signs: who it was, for what, and for how long."""

from __future__ import annotations

import pytest

from ares_p2p.crypto.requests import (
    GOOD_FOR_MS,
    NO_BODY,
    SCHEME,
    check_request,
    content_digest,
    read_content_digest,
    sign_request,
)
from ares_p2p.errors import BadSignature, PayloadMalformed, WeakKey
from ares_p2p.ids import peer_id_of, sha256
from payloads import identity

NOW = 1_700_000_000_000
REQUEST = {"network_id": "net-1", "method": "GET", "path": "/api/ares/adapters?x=1"}


def signed(now_ms: int = NOW) -> str:
    return sign_request(identity(1), **REQUEST, now_ms=now_ms)


@pytest.mark.parametrize("skew_ms", [-GOOD_FOR_MS, 0, GOOD_FOR_MS])
def test_a_signed_request_names_its_worker(skew_ms: int) -> None:
    assert check_request(signed(), **REQUEST, now_ms=NOW + skew_ms) == identity(1).peer_id


@pytest.mark.parametrize("skew_ms", [-GOOD_FOR_MS - 1, GOOD_FOR_MS + 1])
def test_an_old_or_future_one_is_refused(skew_ms: int) -> None:
    with pytest.raises(BadSignature, match="s from now"):
        check_request(signed(), **REQUEST, now_ms=NOW + skew_ms)


@pytest.mark.parametrize("change", ["network_id", "method", "path"])
def test_it_is_good_for_this_very_request_only(change: str) -> None:
    with pytest.raises(BadSignature, match="does not fit"):
        check_request(signed(), **{**REQUEST, change: "other"}, now_ms=NOW)


def test_a_body_is_signed_with_the_request() -> None:
    digest = sha256(b"body")
    header = sign_request(identity(1), **REQUEST, now_ms=NOW, body_sha256=digest)
    found = check_request(header, **REQUEST, now_ms=NOW, body_sha256=digest)
    assert found == identity(1).peer_id
    for other in (NO_BODY, sha256(b"other")):
        with pytest.raises(BadSignature, match="does not fit"):
            check_request(header, **REQUEST, now_ms=NOW, body_sha256=other)
    with pytest.raises(BadSignature, match="does not fit"):
        check_request(signed(), **REQUEST, now_ms=NOW, body_sha256=digest)


def test_a_body_is_named_as_rfc_9530_says() -> None:
    # openssl dgst -sha256 -binary of {"hello": "world"} and a newline, the RFC's own example
    digest = sha256(b'{"hello": "world"}\n')
    assert content_digest(digest) == "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"
    assert read_content_digest(f" {content_digest(digest)} ") == digest
    for text in ("", "sha-256=::", "sha-256=:!:", "sha-512=:AAAA:", "sha-256=:AAAA:", "x" * 5000):
        with pytest.raises(BadSignature):
            read_content_digest(text)


def test_nobody_can_use_anothers_signature() -> None:
    header = signed().replace(identity(1).peer_id, identity(2).peer_id)
    with pytest.raises(BadSignature, match="does not fit"):
        check_request(header, **REQUEST, now_ms=NOW)


def test_a_key_of_small_order_is_refused() -> None:
    weak = peer_id_of((1).to_bytes(32, "little"))
    header = signed().replace(identity(1).peer_id, weak)
    with pytest.raises(WeakKey):
        check_request(header, **REQUEST, now_ms=NOW)


@pytest.mark.parametrize(
    "header",
    [
        "",
        SCHEME,
        f"{SCHEME} a:b",
        f"{SCHEME} a:b:c:d",
        f"{SCHEME} x:12:!!!",
        f"{SCHEME} x:\u00b2:AAAA",
        f"{SCHEME} x:-1:AAAA",
        f"{SCHEME} {'1' * 200}:1:AAAA",
        "Bearer token",
    ],
)
def test_what_is_no_such_header_is_refused(header: str) -> None:
    with pytest.raises((BadSignature, PayloadMalformed)):
        check_request(header, **REQUEST, now_ms=NOW)
