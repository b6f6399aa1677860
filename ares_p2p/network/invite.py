"""Invites: how a newcomer finds a network.

An invite names the network, its coordinator, addresses to start from and, where there is one, the
web address of the coordinator's API, for whoever cannot be part of the P2P network. The network id is a
hash of coordinator and name, so an invite cannot claim a network that its coordinator did not
name, and a node that holds nothing else can already tell the coordinator's records from forged
ones. An invite without addresses is a *network reference*: enough for a bootstrap node.

Text form: `ares://` + base64url(version, body length, protobuf body, 4 bytes of sha256). It
refuses what is cut off, mistyped or of another version, and says which of them it is.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from google.protobuf.message import DecodeError

from ares_p2p.errors import BootstrapAway, InviteMalformed, PayloadMalformed
from ares_p2p.ids import PeerId, peer_id_of, public_key_of, sha256
from ares_p2p.wire.v1 import ares_pb2 as pb

SCHEME = "ares://"
NETWORK_ID_CHARS = 32  # 128 bits: nobody finds a second (coordinator, name) for the same id
MAX_NAME_CHARS = 64
MAX_ADDRESSES = 16
MAX_ADDRESS_CHARS = 256
MAX_INVITE_CHARS = 8192  # 16 addresses of 256 characters, in base64
MAX_REPLY_BYTES = 16_384  # of a coordinator's /api/ares/network
RESOLVE_TIMEOUT_S = 10.0
_VERSION = 1
_HEAD = struct.Struct(">BH")  # version, length of the body
_CHECKSUM_BYTES = 4
_WEB_SCHEMES = ("http://", "https://")
_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class NetworkRef:
    """Which network a node belongs to, and whose word counts in it."""

    network_id: str
    coordinator: PeerId


def network_id_of(coordinator: PeerId, name: str) -> str:
    """Return the id of the network that `coordinator` runs under `name`: 32 hex characters."""
    digest = sha256(b"ares-network-v1\0", public_key_of(coordinator), name.encode())
    return digest.hex()[:NETWORK_ID_CHARS]


def _check_name(name: str) -> None:
    if not 1 <= len(name) <= MAX_NAME_CHARS or not name.isprintable() or name != name.strip():
        raise InviteMalformed(
            f"network name of {len(name)} characters: 1 to {MAX_NAME_CHARS} printable ones expected"
        )


def _check_addresses(addresses: tuple[str, ...]) -> None:
    if len(addresses) > MAX_ADDRESSES:
        raise InviteMalformed(f"{len(addresses)} addresses, at most {MAX_ADDRESSES} expected")
    for address in addresses:
        printable = address.isascii() and address.isprintable() and " " not in address
        if len(address) > MAX_ADDRESS_CHARS or not printable or "," in address:
            raise InviteMalformed(f"address {address[:60]!r} is no multiaddress")
        if not address.startswith("/") or "/p2p/" not in address:
            raise InviteMalformed(
                f"address {address[:60]!r}: '/ip4/.../tcp/.../p2p/<peer id>' expected"
            )


def _check_web_address(url: str) -> None:
    plain = url.isascii() and url.isprintable() and " " not in url
    if url and (not plain or len(url) > MAX_ADDRESS_CHARS or not url.startswith(_WEB_SCHEMES)):
        raise InviteMalformed(f"{url[:60]!r} is no web address of a coordinator")


@dataclass(frozen=True, slots=True)
class Invite:
    """A network, its coordinator, and where to start from.

    Raises (when made): InviteMalformed: a name or address that no invite may hold.
    """

    name: str
    coordinator: PeerId
    addresses: tuple[str, ...] = ()
    api_url: str = ""  # what stands before /api/ares

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_addresses(self.addresses)
        _check_web_address(self.api_url)

    @property
    def network_id(self) -> str:
        """The id that follows from coordinator and name."""
        return network_id_of(self.coordinator, self.name)

    @property
    def network(self) -> NetworkRef:
        """What a node is started with."""
        return NetworkRef(self.network_id, self.coordinator)

    def encode(self) -> str:
        """Return the `ares://` text of this invite."""
        body = pb.Invite(
            name=self.name,
            coordinator=public_key_of(self.coordinator),
            addresses=self.addresses,
            api_url=self.api_url,
        ).SerializeToString(deterministic=True)
        raw = _HEAD.pack(_VERSION, len(body)) + body
        raw += sha256(raw)[:_CHECKSUM_BYTES]
        return SCHEME + base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _raw_of(text: str) -> bytes:
    """Return the bytes behind the scheme, after all that can be said about the text."""
    compact = "".join(text.split()).strip("\"'<>`")
    if not compact:
        raise InviteMalformed("the invite is empty")
    if len(compact) > MAX_INVITE_CHARS:
        raise InviteMalformed(f"{len(compact)} characters, at most {MAX_INVITE_CHARS} expected")
    if compact.lower().startswith(_WEB_SCHEMES):
        raise InviteMalformed("this is a web address; it has to be asked for its invite first")
    if not compact.lower().startswith(SCHEME):
        raise InviteMalformed(f"{compact[:12]!r}... does not begin with {SCHEME}")
    encoded = compact[len(SCHEME) :]
    try:
        return base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise InviteMalformed("the invite is cut off or holds characters no invite has") from error


def parse_invite(text: str) -> Invite:
    """Return the invite in `text`; white space and line breaks inside it do no harm.

    Raises: InviteMalformed: empty, another scheme, cut off, mistyped, or of another version.
    """
    raw = _raw_of(text)
    if len(raw) < _HEAD.size + _CHECKSUM_BYTES:
        raise InviteMalformed(f"the invite is cut off after {len(raw)} bytes")
    version, length = _HEAD.unpack_from(raw)
    expected = _HEAD.size + length + _CHECKSUM_BYTES
    if version == _VERSION and len(raw) < expected:
        raise InviteMalformed(f"the invite is cut off: {len(raw)} of {expected} bytes are there")
    content, checksum = raw[:-_CHECKSUM_BYTES], raw[-_CHECKSUM_BYTES:]
    if sha256(content)[:_CHECKSUM_BYTES] != checksum:
        raise InviteMalformed("the checksum does not fit: a character was lost or changed")
    if version != _VERSION or len(raw) != expected:
        raise InviteMalformed(
            f"invite of version {version}, this program reads version {_VERSION}",
            hint="pip install --upgrade ares-p2p",
        )
    message = pb.Invite()
    try:
        message.ParseFromString(content[_HEAD.size :])
        coordinator = peer_id_of(message.coordinator)
    except (DecodeError, UnicodeDecodeError, PayloadMalformed) as error:
        raise InviteMalformed("the checksum fits, but the content is no invite") from error
    return Invite(message.name, coordinator, tuple(message.addresses), message.api_url)


def _network_url(text: str) -> str:
    """Return the URL to ask, refusing plain http to anywhere but this machine."""
    parts = urlsplit("".join(text.split()))
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK_HOSTS:
        raise InviteMalformed(
            f"plain http to {parts.hostname!r}: anybody on the way could swap the network",
            hint="Use https://, or the ares:// invite itself.",
        )
    if not parts.hostname or parts.username or parts.password:
        raise InviteMalformed(f"{text[:60]!r} is no web address of a coordinator")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}/api/ares/network"


async def resolve_invite(text: str) -> Invite:
    """Return the invite that `text` is, or that the coordinator at this web address hands out.

    Raises: InviteMalformed: no invite, plain http, or an answer that holds none.
        BootstrapAway: the address does not answer.
    """
    if not "".join(text.split()).lower().startswith(_WEB_SCHEMES):
        return parse_invite(text)
    url = _network_url(text)
    import aiohttp  # only this path needs it, and `--help` must stay fast

    timeout = aiohttp.ClientTimeout(total=RESOLVE_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise BootstrapAway(f"{url} answers {response.status}, 200 expected")
            data = await response.content.read(MAX_REPLY_BYTES + 1)
            while len(data) <= MAX_REPLY_BYTES and not response.content.at_eof():
                data += await response.content.read(MAX_REPLY_BYTES + 1 - len(data))
    except (aiohttp.ClientError, TimeoutError) as error:
        raise BootstrapAway(f"{url} does not answer: {type(error).__name__}") from error
    if len(data) > MAX_REPLY_BYTES:
        raise InviteMalformed(f"{url} answers more than {MAX_REPLY_BYTES} bytes")
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InviteMalformed(f"{url} does not answer with JSON") from error
    invite = answer.get("invite") if isinstance(answer, dict) else None
    if not isinstance(invite, str):
        raise InviteMalformed(f"{url} answers without an invite")
    parsed = parse_invite(invite)
    return replace(parsed, api_url=parsed.api_url or url.removesuffix("/api/ares/network"))
