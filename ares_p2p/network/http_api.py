"""What both sides of the HTTPS way have to agree on: paths, sizes, and how records are written.

The way exists for peers whose P2P does not come through. It carries the very same signed
messages, leased records and content-addressed blobs; only the transport is another one:

    GET  time                               the coordinator's clock, and which network answers
    GET  records?key=&key=                  what lies in the DHT under some keys
    GET  watch?key=&known=&wait=            what the coordinator signs next, see `watching`
    PUT  records                            a value for the sender's own subkey
    POST register                           a signed PeerStatus: the worker is there
    POST training/gradient                  a signed Commit
    PUT  training/gradient/{blob}           the committed blob's chunk list: what is missing?
    PUT  training/gradient/{blob}/{chunk}   some of its chunks, from this one on
    POST audits/report                      a signed AuditReport
    GET  blobs/{blob}/chunks                a blob's chunk list
    GET  blobs/{blob}                       its bytes, by range

All of it lies under `/api/ares/swarm/`, and every request is signed (`crypto.requests`). Pure.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import string
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from ares_p2p.errors import ConfigFault, Oversize, PayloadMalformed
from ares_p2p.ids import CHUNK_BYTES, DIGEST_BYTES, MAX_BLOB_BYTES, Digest
from ares_p2p.network.record_keys import KINDS, MAX_SUBKEYS, Scope
from ares_p2p.network.record_rules import MAX_VALUE_BYTES, FoundValue, PlainValue
from ares_p2p.network.watching import MAX_KEY_CHARS, MAX_WISHES, News, Wish, check_news

PREFIX = "/api/ares/swarm"
MAX_KEYS = 16  # of one read: a search for peers' statuses, or as many chunks as travel at once
MAX_RECORDS_REPLY_BYTES = 8 * 1024**2  # 16 dictionaries of 128 statuses of 4 kB, at the worst
MAX_MESSAGE_BYTES = 16 * 1024  # of a signed message in base64: four times the largest status
MAX_STORE_BYTES = 32 * 1024  # of a record that a peer may write, in base64
UPLOAD_CHUNKS = 3  # of one request: 768 KiB, below the 1 MB that nginx takes by default
MAX_UPLOAD_BYTES = UPLOAD_CHUNKS * CHUNK_BYTES
MAX_MISSING_RUNS = 256  # named at a time; the rest is asked for again
MAX_CHUNK_LIST_BYTES = 64 + 32 * (MAX_BLOB_BYTES // CHUNK_BYTES)
MAX_URL_CHARS = 256
_MAX_NUMBER = 2**31 - 1
_AT_HOME = tuple(  # RFC 1918, RFC 4193, and addresses of the one link
    ipaddress.ip_network(network)
    for network in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "169.254.0.0/16",
        "fc00::/7",
        "fe80::/10",
    )
)
_PATH_CHARS = frozenset("/-._~" + string.ascii_letters + string.digits)


def plain_number(text: str) -> int:
    """Return the number that a text without any decoration is.

    Raises: PayloadMalformed.
    """
    if (
        text.isascii()
        and text.isdigit()
        and len(text) <= 10
        and (number := int(text)) <= _MAX_NUMBER
    ):
        return number
    raise PayloadMalformed(f"{text[:20]!r}: a whole number expected")


def digest_of(text: str) -> Digest:
    """Return the digest that 64 small hex digits are.

    Raises: PayloadMalformed.
    """
    if len(text) == 2 * DIGEST_BYTES and not set(text) - set("0123456789abcdef"):
        return bytes.fromhex(text)
    raise PayloadMalformed(f"a sha256 in hex expected, {len(text)} characters came")


def check_key(key: str, *, network_id: str) -> None:
    """Refuse a key under which nothing of this network can lie.

    Nobody makes a coordinator search the DHT for what no rule would ever let in.

    Raises: PayloadMalformed.
    """
    parts = key.split("/")
    if len(key) > MAX_KEY_CHARS or parts[:2] != ["ares", network_id] or len(parts) < 3:
        raise PayloadMalformed("a key `ares/<network id>/<kind>/...` of this network expected")
    name, rest = parts[2], parts[3:]
    if name == "chunk" and len(rest) == 1:
        digest_of(rest[0])
        return
    kind = KINDS.get(name)
    if kind is None:
        raise PayloadMalformed(f"no record is of kind {name[:20]!r}")
    if kind.by_peers and rest and rest[-1][:1] == "b" and plain_number(rest[-1][1:]) < kind.buckets:
        rest = rest[:-1]
    elif kind.by_peers:
        raise PayloadMalformed(f"keys of {name} records end with their bucket")
    numbers = {Scope.NETWORK: 0, Scope.CYCLE: 1, Scope.ROUND: 2}[kind.scope]
    if len(rest) != numbers or any(str(plain_number(text)) != text for text in rest):
        raise PayloadMalformed(f"keys of {name} records name {numbers} plain numbers")


# --- records -----------------------------------------------------------------------------------


def encode_bytes(data: bytes) -> str:
    """Return bytes as text."""
    return base64.b64encode(data).decode()


def decode_bytes(text: object, *, max_bytes: int) -> bytes:
    """Return the bytes that base64 text holds.

    Raises: PayloadMalformed, Oversize.
    """
    if not isinstance(text, str):
        raise PayloadMalformed("base64 text expected")
    if len(text) > 4 * (-(-max_bytes // 3)):
        raise Oversize(f"{len(text)} characters of base64, at most {max_bytes} bytes expected")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PayloadMalformed("the text is not base64") from error


def found_rows(key: str, found: FoundValue) -> list[dict[str, Any]]:
    """Return what lies under a key as rows of a reply."""
    places: list[tuple[str | None, PlainValue]] = (
        [(None, found)] if isinstance(found, tuple) else []
    )
    if isinstance(found, dict):
        places += found.items()
    return [
        {"key": key, "subkey": subkey, "value": encode_bytes(value), "expiration_s": expiration_s}
        for subkey, (value, expiration_s) in places
    ]


def read_found(body: bytes, keys: list[str]) -> dict[str, FoundValue]:
    """Return what a reply says about the keys that were asked for; only its form is checked.

    Raises: PayloadMalformed, Oversize.
    """
    try:
        rows = json.loads(body)["records"]
        if not isinstance(rows, list) or len(rows) > MAX_KEYS * MAX_SUBKEYS:
            raise PayloadMalformed("the reply holds no list of records, or too long a one")
        places = [
            (row["key"], row["subkey"], row["value"], float(row["expiration_s"])) for row in rows
        ]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PayloadMalformed("the reply holds no records") from error
    found: dict[str, FoundValue] = dict.fromkeys(keys)
    for key, subkey, text, expiration_s in places:
        if key not in found:
            raise PayloadMalformed("the reply holds a key that was not asked for")
        value = (decode_bytes(text, max_bytes=MAX_VALUE_BYTES), expiration_s)
        there = found[key]
        if subkey is None and there is None:
            found[key] = value
        elif isinstance(subkey, str) and not isinstance(there, tuple):
            found[key] = {**(there or {}), subkey[:MAX_KEY_CHARS]: value}
        else:
            raise PayloadMalformed("the reply holds a value and a dictionary under one key")
    return found


def read_news(body: bytes, wishes: Sequence[Wish]) -> list[News]:
    """Return what a reply says is new about some keys; only its form is checked.

    Raises: PayloadMalformed, Oversize.
    """
    try:
        rows = json.loads(body)["news"]
        if not isinstance(rows, list) or len(rows) > MAX_WISHES:
            raise PayloadMalformed("the reply holds no list of news, or too long a one")
        news = [
            News(
                str(row["key"]),
                digest_of(row["payload_sha256"]),
                decode_bytes(row["value"], max_bytes=MAX_VALUE_BYTES),
                float(row["expiration_s"]),
            )
            for row in rows
        ]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PayloadMalformed("the reply holds no news") from error
    check_news(news, wishes)
    return news


# --- the address -------------------------------------------------------------------------------


def check_api_url(url: str) -> str:
    """Return the address of an API without its last slash.

    Everything that goes this way is signed or hashed, so plain http can forge nothing; but who is
    on the way could keep a peer out unseen. So it is refused where packets leave the house.

    Raises: ConfigFault: no web address, or plain http to a host of the public internet.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise ConfigFault(f"{url[:60]!r} is no web address: {error}") from error
    hint = "Give what stands before /api/ares, as in https://ares.example.org"
    # what would be quoted on the way would not be what was signed
    plain = not set(parts.path) - _PATH_CHARS and len(url) <= MAX_URL_CHARS
    if not plain or parts.scheme not in ("http", "https") or not host:
        raise ConfigFault(f"{url[:60]!r} is no web address of a coordinator", hint=hint)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigFault(f"{url[:60]!r} holds more than a host and a path", hint=hint)
    if parts.scheme == "http" and not is_at_home(host):
        raise ConfigFault(
            f"plain http to {host!r}: anybody on the way could cut this peer off",
            hint="Use https://; docs/network.md says how an operator gets there.",
        )
    return url.rstrip("/")


def is_at_home(host: str) -> bool:
    """Whether a host is this machine, or an address of a private network."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or any(address in network for network in _AT_HOME)
