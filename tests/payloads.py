"""Payloads for tests: one fixed sample of every kind, and hypothesis strategies of all of them.

Both are derived from the dataclasses of `ares_p2p.domain` and the integer widths of the generated
messages, so a new field or a new kind is covered without a line here.
"""

from __future__ import annotations

import dataclasses
import hashlib
from enum import StrEnum
from typing import Any, get_args, get_origin, get_type_hints

from google.protobuf.descriptor import FieldDescriptor
from hypothesis import strategies as st

from ares_p2p import domain
from ares_p2p.crypto.keys import Identity
from ares_p2p.ids import peer_id_of
from ares_p2p.wire.v1 import ares_pb2 as pb

KINDS: tuple[type, ...] = get_args(domain.Payload)
MAX_INT = 2**53 - 1
MAX_UINT32 = 2**32 - 1


def identity(number: int) -> Identity:
    """Return the same identity for the same number, always."""
    return Identity.from_seed(hashlib.sha256(b"test identity %d" % number).digest())


def message_class(cls: type) -> Any:
    """Return the generated message of a domain class."""
    return getattr(pb, {"BaseFile": "File"}.get(cls.__name__, cls.__name__))


def _fields(cls: type) -> list[tuple[str, Any, str, FieldDescriptor]]:
    hints, descriptor = get_type_hints(cls), message_class(cls).DESCRIPTOR
    return [
        (field.name, hints[field.name], str(field.type), descriptor.fields_by_name[field.name])
        for field in dataclasses.fields(cls)
    ]


# --- one fixed sample of each kind -------------------------------------------------------------


def sample(cls: type, where: str = "") -> Any:
    """Return a fixed value of a domain class; every field differs from every other."""
    values = {}
    for name, hint, alias, field in _fields(cls):
        place = f"{where}/{cls.__name__}.{name}"
        if get_origin(hint) is tuple:
            inner = alias.removeprefix("tuple[").removesuffix(", ...]")
            values[name] = tuple(
                _sample_one(get_args(hint)[0], inner, field, f"{place}[{i}]") for i in range(2)
            )
        else:
            values[name] = _sample_one(hint, alias, field, place)
    return cls(**values)


def _sample_one(hint: Any, alias: str, field: FieldDescriptor, place: str) -> Any:
    seed = hashlib.sha256(place.encode()).digest()
    number = int.from_bytes(seed[:2], "big")
    if dataclasses.is_dataclass(hint):
        return sample(hint, place)
    if get_origin(hint) is tuple:
        return (place[-12:], number)
    if alias == "PeerId":
        return identity(number).peer_id
    if hint is bytes:
        return seed
    if hint is str:
        return f"text of {place[-40:]} \u00e4\u4e2d"
    if hint is bool:
        return True
    if hint is float:
        return number / 64  # exact as a float32 too
    if hint is int:
        return number
    return list(hint)[number % len(hint)]


# --- strategies of everything a receiver accepts -----------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["C", "Z"], codec="utf-8"), max_size=40)


def payloads(cls: type) -> st.SearchStrategy[Any]:
    """Return the strategy of all acceptable values of a domain class."""
    arguments = {}
    for name, hint, alias, field in _fields(cls):
        if get_origin(hint) is tuple:
            inner = alias.removeprefix("tuple[").removesuffix(", ...]")
            one = _one(get_args(hint)[0], inner, field)
            arguments[name] = st.lists(one, max_size=3).map(tuple)
        else:
            arguments[name] = _one(hint, alias, field)
    return st.builds(cls, **arguments)


def _one(hint: Any, alias: str, field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if dataclasses.is_dataclass(hint):
        return payloads(hint)
    if get_origin(hint) is tuple:
        return st.tuples(TEXT, st.integers(0, MAX_UINT32))
    if alias == "PeerId":
        return st.binary(min_size=32, max_size=32).map(peer_id_of)
    if alias == "Digest":
        return st.binary(min_size=32, max_size=32)
    if hint is bytes:
        return st.binary(max_size=300)
    if hint is str:
        return TEXT
    if hint is bool:
        return st.booleans()
    if hint is float:
        width = 32 if field.type == FieldDescriptor.TYPE_FLOAT else 64
        return st.floats(0, None, width=width, allow_infinity=False, allow_nan=False)
    if hint is int:
        narrow = field.type == FieldDescriptor.TYPE_UINT32
        return st.integers(0, MAX_UINT32 if narrow else MAX_INT)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return st.sampled_from(list(hint))
    raise TypeError(f"no strategy for {hint} ({alias})")


# --- hostile messages: right schema, wrong values ----------------------------------------------


def hostile_messages(cls: type) -> st.SearchStrategy[bytes]:
    """Return the strategy of encoded messages whose fields hold anything the schema can carry."""
    return _hostile(message_class(cls).DESCRIPTOR).map(
        lambda fill: _filled(message_class(cls), fill)
    )


def _filled(factory: Any, values: dict[str, Any]) -> bytes:
    message = factory()
    _fill(message, values)
    return message.SerializeToString()


def _fill(message: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        target = getattr(message, name)
        if isinstance(value, dict):
            target.SetInParent()
            _fill(target, value)
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, dict):
                    _fill(target.add(), item)
                else:
                    target.append(item)
        else:
            setattr(message, name, value)


def _hostile(descriptor: Any) -> st.SearchStrategy[dict[str, Any]]:
    optional = {}
    for field in descriptor.fields:
        one = _hostile_one(field)
        optional[field.name] = st.lists(one, max_size=3) if field.is_repeated else one
    return st.fixed_dictionaries({}, optional=optional)


def _hostile_one(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return _hostile(field.message_type)
    if field.type == FieldDescriptor.TYPE_STRING:
        text = st.text(st.characters(codec="utf-8"), max_size=50)
        peer = st.binary(min_size=32, max_size=32).map(peer_id_of)
        return text | peer | st.just("x" * 513)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(min_size=32, max_size=32) | st.binary(max_size=64) | st.just(bytes(4097))
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_ENUM:
        return st.integers(-3, 9)
    if field.type == FieldDescriptor.TYPE_FLOAT:
        return st.floats(width=32)
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return st.floats()
    narrow = field.type == FieldDescriptor.TYPE_UINT32
    return st.integers(0, MAX_UINT32 if narrow else 2**64 - 1)
