"""Safetensors files as streams: the header, and bytes from and to places in the data.

The library maps a file or loads it; a merge has to read and write files larger than memory, in
order, and to hash what passes. Here is the format itself, which is small: u64 length (little
endian), that many bytes of JSON (tensor -> dtype, shape, data_offsets), then the tensors' bytes.

Refuses: headers over the format's own bound, offsets that overlap or leave holes, sizes that do not
fit shape and type. Source: safetensors, README, "Format".
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ares_p2p.errors import BaseUnsupported

MAX_HEADER_BYTES = 100_000_000  # the format's own bound
_LENGTH = struct.Struct("<Q")
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16,
    "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a file: `start` counts from the first byte of the data."""

    name: str
    dtype: str  # as the format names it: "F32", "BF16" ...
    shape: tuple[int, ...]
    start: int
    size_bytes: int

    @property
    def elements(self) -> int:
        """Number of elements; 1 for a scalar."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """The head of a file: `prefix` is every byte before the data, exactly as stored."""

    prefix: bytes
    tensors: tuple[StoredTensor, ...]  # in the order of their bytes, without gaps

    @property
    def size_bytes(self) -> int:
        """Size of the whole file."""
        return len(self.prefix) + sum(tensor.size_bytes for tensor in self.tensors)


def read_head(path: Path) -> StoredFile:
    """Return the head of the safetensors file at `path`; its data is not read.

    Raises: BaseUnsupported: not a safetensors file, or one that is cut off or has holes.
    """
    try:
        with path.open("rb") as file:
            length = file.read(_LENGTH.size)
            (size,) = _LENGTH.unpack(length)
            if size > MAX_HEADER_BYTES:
                raise BaseUnsupported(f"{path}: header of {size} bytes")
            text = file.read(size)
            if len(text) != size:
                raise BaseUnsupported(f"{path} is cut off within its header")
            header = json.loads(text)
        tensors = [_tensor(n, entry) for n, entry in header.items() if n != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise BaseUnsupported(f"{path} is no readable safetensors file: {error}") from error
    tensors.sort(key=lambda tensor: (tensor.start, tensor.size_bytes))
    end = 0
    for tensor in tensors:
        if tensor.start != end:
            raise BaseUnsupported(f"{path}: {tensor.name} begins at {tensor.start}, not at {end}")
        end += tensor.size_bytes
    found = StoredFile(length + text, tuple(tensors))
    if path.stat().st_size != found.size_bytes:
        raise BaseUnsupported(f"{path} has {path.stat().st_size} bytes, not {found.size_bytes}")
    return found


def weight_files(folder: Path) -> dict[str, StoredFile]:
    """Return the heads of all weight files of a base, by name, sorted.

    Raises: BaseUnsupported: one of them is unreadable, or a tensor is in two of them.
    """
    found = {path.name: read_head(path) for path in sorted(folder.glob("*.safetensors"))}
    names = [tensor.name for head in found.values() for tensor in head.tensors]
    if len(names) != len(set(names)):
        twice = sorted({name for name in names if names.count(name) > 1})[:3]
        raise BaseUnsupported(f"{folder}: {', '.join(twice)} is stored twice")
    return found


def _tensor(name: str, entry: dict[str, Any]) -> StoredTensor:
    dtype, shape = str(entry["dtype"]), tuple(int(extent) for extent in entry["shape"])
    start, end = (int(offset) for offset in entry["data_offsets"])
    if dtype not in _BITS:
        raise BaseUnsupported(f"{name}: type {dtype!r} is not known")
    if any(extent < 0 for extent in shape):
        raise BaseUnsupported(f"{name}: shape {shape}")
    if (end - start) * 8 != math.prod(shape) * _BITS[dtype]:
        raise BaseUnsupported(f"{name}: {end - start} bytes for {dtype} of shape {shape}")
    return StoredTensor(name, dtype, shape, start, end - start)
