"""Bytes <-> domain, with a bound on everything that a stranger controls.

The order is always the same: size, then signature, then decoding, then the range of every field.
Field names of the messages and of the dataclasses are equal, so one table-free walk serves all
kinds; the annotation of a field decides its bound ("Digest" is 32 bytes, "PeerId" must embed a
key, text is short and printable, numbers are finite and not negative).

It refuses: unknown kinds, missing headers, values out of range, and unset enums.
Source: docs/adr/0001; proto/ares_p2p/wire/v1/ares.proto.
"""

from __future__ import annotations

import dataclasses
import math
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from google.protobuf.message import DecodeError, Message

from ares_p2p import domain
from ares_p2p.crypto.envelope import Envelope, check_envelope, sign_payload
from ares_p2p.crypto.keys import Identity
from ares_p2p.domain import Payload
from ares_p2p.errors import EnvelopeMalformed, Oversize, PayloadMalformed, WrongNetwork
from ares_p2p.ids import DIGEST_BYTES, PeerId, public_key_of
from ares_p2p.wire.v1 import ares_pb2 as pb

MAX_ENVELOPE_BYTES = 48 * 1024  # a DHT record; hivemind is comfortable up to about 50 kB
MAX_TEXT_CHARS = 512
MAX_ITEMS = 1024  # of any repeated field
MAX_INT = 2**53 - 1  # exact in every language that may read it
MAX_NESTED_BYTES = 4096  # an envelope inside a CommitSet
MAX_COMMIT_BYTES = 1024  # 4x an honest one; fat commits would keep a round from closing

P = TypeVar("P", bound=Payload)

_KINDS: dict[str, type[Payload]] = {
    "network": domain.NetworkDescriptor,
    "cycle": domain.CycleConfig,
    "dataset": domain.DatasetManifest,
    "plan": domain.RoundPlan,
    "commit": domain.Commit,
    "ack": domain.CommitAck,
    "commits": domain.CommitSet,
    "manifest": domain.RoundManifest,
    "settlement": domain.RoundSettlement,
    "peer": domain.PeerStatus,
    "audits": domain.AuditPlan,
    "report": domain.AuditReport,
    "log": domain.LedgerHead,
}
_KIND_OF = {cls: kind for kind, cls in _KINDS.items()}
_MESSAGE_NAMES = {"BaseFile": "File"}  # where the wire's name differs from the domain's


def kind_of(payload: Payload | type[Payload]) -> str:
    """Return the short kind of a payload or its class, as used in record names."""
    return _KIND_OF[payload if isinstance(payload, type) else type(payload)]


def _check_size(data: bytes, cls: type) -> None:
    bound = MAX_COMMIT_BYTES if cls is domain.Commit else MAX_ENVELOPE_BYTES
    if len(data) > bound:
        raise Oversize(f"{cls.__name__} of {len(data)} bytes, at most {bound}")


def payload_type_of(kind: str) -> str:
    """Return the DSSE payload type of a kind."""
    return f"application/vnd.ares.{kind}.v1+protobuf"


_CLASS_OF_TYPE = {payload_type_of(kind): cls for kind, cls in _KINDS.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class _Field:
    name: str
    base: Any  # the element's type
    alias: str  # the annotation as written: Digest and bytes are one type at run time
    repeated: bool
    default: Any  # MISSING: the first version of the message had the field already


@cache
def _fields_of(cls: type) -> tuple[_Field, ...]:
    hints = get_type_hints(cls)
    found = []
    for field in dataclasses.fields(cls):
        hint, alias = hints[field.name], str(field.type)
        repeated = get_origin(hint) is tuple and Ellipsis in get_args(hint)
        if repeated:
            hint = get_args(hint)[0]
            alias = alias.removeprefix("tuple[").removesuffix(", ...]")
        found.append(_Field(field.name, hint, alias, repeated, field.default))
    return tuple(found)


def _message_class(cls: type) -> type[Message]:
    return cast("type[Message]", getattr(pb, _MESSAGE_NAMES.get(cls.__name__, cls.__name__)))


# --- domain -> bytes ---------------------------------------------------------------------------


def _fill(message: Any, value: Any) -> None:
    cls: type = type(value)
    for field in _fields_of(cls):
        content = getattr(value, field.name)
        target = getattr(message, field.name)
        if field.base is tuple or get_origin(field.base) is tuple:  # (category, count) pairs
            for category, count in content:
                target.add(category=category, examples=count)
        elif dataclasses.is_dataclass(field.base):
            for item in content if field.repeated else (content,):
                _fill(target.add() if field.repeated else target, item)
        elif field.repeated:
            target.extend(content)
        elif isinstance(content, StrEnum):
            name = f"{_enum_prefix(type(content))}_{content.name}"
            setattr(message, field.name, getattr(pb, name))
        else:
            setattr(message, field.name, content)


def encode_payload(payload: Payload) -> bytes:
    """Return the protobuf bytes of a payload, after the same checks that decoding makes.

    Raises: PayloadMalformed, Oversize: a value that no receiver would accept.
    """
    message = _message_class(type(payload))()
    try:
        _fill(message, payload)
    except (TypeError, ValueError) as error:
        raise PayloadMalformed(f"cannot encode {type(payload).__name__}: {error}") from error
    _read(message, type(payload), "")
    data = message.SerializeToString(deterministic=True)
    _check_size(data, type(payload))
    return data


# --- bytes -> domain ---------------------------------------------------------------------------


def _enum_prefix(cls: type[StrEnum]) -> str:
    return "".join("_" + c if c.isupper() else c for c in cls.__name__).strip("_").upper()


def _check_text(text: str, where: str) -> str:
    if len(text) > MAX_TEXT_CHARS or not (text == "" or text.isprintable()):
        raise PayloadMalformed(f"{where}: text of {len(text)} characters or not printable")
    return text


def _scalar(value: Any, field: _Field, where: str) -> Any:
    if field.alias == "PeerId":
        public_key_of(value)
        return PeerId(value)
    if field.alias == "Digest":
        if not value and field.default is not dataclasses.MISSING:
            return field.default  # written before there was such a field
        if len(value) != DIGEST_BYTES:
            raise PayloadMalformed(f"{where}: {len(value)} bytes, a digest has {DIGEST_BYTES}")
        return bytes(value)
    if field.base is bytes:
        if len(value) > MAX_NESTED_BYTES:
            raise Oversize(f"{where}: {len(value)} bytes, at most {MAX_NESTED_BYTES}")
        return bytes(value)
    if field.base is str:
        return _check_text(value, where)
    if field.base is bool:
        return bool(value)
    if field.base is int:
        if not 0 <= value <= MAX_INT:
            raise PayloadMalformed(f"{where}: {value} is outside 0..2^53")
        return int(value)
    if field.base is float:
        if not math.isfinite(value) or value < 0:  # no loss, rate or weight here is negative
            raise PayloadMalformed(f"{where}: {value} is not finite or negative")
        return float(value)
    return _enum_value(value, field.base, where)


def _enum_value(value: int, cls: type[StrEnum], where: str) -> StrEnum:
    prefix = _enum_prefix(cls)
    for member in cls:
        if getattr(pb, f"{prefix}_{member.name}") == value:
            return member
    raise PayloadMalformed(f"{where}: unknown value {value} of {cls.__name__}")


def _read(message: Any, cls: type, where: str) -> Any:
    values: dict[str, Any] = {}
    for field in _fields_of(cls):
        place = f"{where}{cls.__name__}.{field.name}"
        raw = getattr(message, field.name)
        if field.repeated and len(raw) > MAX_ITEMS:
            raise Oversize(f"{place}: {len(raw)} items, at most {MAX_ITEMS}")
        if get_origin(field.base) is tuple:
            values[field.name] = tuple(
                (_check_text(item.category, place), int(item.examples)) for item in raw
            )
        elif dataclasses.is_dataclass(field.base):
            nested = cast("type", field.base)
            if field.repeated:
                values[field.name] = tuple(_read(item, nested, place + ".") for item in raw)
            elif not message.HasField(field.name):
                raise PayloadMalformed(f"{place} is missing")
            else:
                values[field.name] = _read(raw, nested, place + ".")
        elif field.repeated:
            values[field.name] = tuple(_scalar(item, field, place) for item in raw)
        else:
            values[field.name] = _scalar(raw, field, place)
    return cls(**values)


def decode_payload(payload_type: str, data: bytes, cls: type[P]) -> P:
    """Return the payload of class `cls` in `data`.

    Raises: Oversize, PayloadMalformed: too big, another kind, undecodable, or out of range.
    """
    _check_size(data, cls)
    if _CLASS_OF_TYPE.get(payload_type) is not cls:
        raise PayloadMalformed(f"payload type {payload_type[:80]!r}, {cls.__name__} expected")
    message = _message_class(cls)()
    try:
        message.ParseFromString(data)
    except (DecodeError, UnicodeDecodeError) as error:
        raise PayloadMalformed(f"{cls.__name__} does not decode") from error
    return cast("P", _read(message, cls, ""))


def class_of(envelope: Envelope) -> type[Payload]:
    """Return the payload class that the envelope's type names.

    Raises: PayloadMalformed: an unknown type.
    """
    cls = _CLASS_OF_TYPE.get(envelope.payload_type)
    if cls is None:
        raise PayloadMalformed(f"unknown payload type {envelope.payload_type[:80]!r}")
    return cls


def encode_envelope(envelope: Envelope) -> bytes:
    """Return the envelope's bytes, at most `MAX_ENVELOPE_BYTES`.

    Raises: Oversize.
    """
    data = pb.Envelope(
        payload_type=envelope.payload_type,
        payload=envelope.payload,
        public_key=envelope.public_key,
        signature=envelope.signature,
    ).SerializeToString(deterministic=True)
    if len(data) > MAX_ENVELOPE_BYTES:
        raise Oversize(f"envelope of {len(data)} bytes, at most {MAX_ENVELOPE_BYTES}")
    return data


def decode_envelope(data: bytes, *, max_bytes: int = MAX_ENVELOPE_BYTES) -> Envelope:
    """Return the envelope in `data`; its signature is not verified yet.

    Raises: Oversize, EnvelopeMalformed.
    """
    if len(data) > max_bytes:
        raise Oversize(f"envelope of {len(data)} bytes, at most {max_bytes}")
    message = pb.Envelope()
    try:
        message.ParseFromString(data)
    except (DecodeError, UnicodeDecodeError) as error:
        raise EnvelopeMalformed("the bytes are no envelope") from error
    if len(message.public_key) != 32 or len(message.signature) != 64:
        raise EnvelopeMalformed("an envelope holds a 32-byte key and a 64-byte signature")
    return Envelope(message.payload_type, message.payload, message.public_key, message.signature)


def seal(identity: Identity, payload: Payload) -> Envelope:
    """Return `payload` encoded and signed by `identity`."""
    return sign_payload(identity, payload_type_of(kind_of(payload)), encode_payload(payload))


def open_envelope(
    envelope: Envelope,
    cls: type[P],
    *,
    signer: PeerId | None = None,
    network_id: str | None = None,
) -> P:
    """Return the payload of a verified envelope.

    Args:
        signer: who must have signed it; None for "anybody, but validly".
        network_id: the network it must belong to; None when the reader has none yet.
    Raises: WrongSigner, WeakKey, BadSignature, PayloadMalformed, Oversize, WrongNetwork.
    """
    _check_size(envelope.payload, cls)
    check_envelope(envelope, signer=signer)
    payload = decode_payload(envelope.payload_type, envelope.payload, cls)
    if network_id is not None and payload.header.network_id != network_id:
        raise WrongNetwork(
            f"payload of network {payload.header.network_id[:40]!r}, {network_id!r} expected"
        )
    return payload
