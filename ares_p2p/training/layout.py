"""The layout of a parameter vector: which tensor lies where.

A layout is a sorted list of names and shapes; the tensors follow each other in the flat vector
without gaps, each in row-major order. Its digest travels with every blob and snapshot, so bytes
made for another model are refused before a number is read.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ares_p2p.averaging.vectors import FLOAT32, Vector, check_vector
from ares_p2p.errors import ShapeMismatch
from ares_p2p.ids import Digest, sha256

LAYOUT_DOMAIN = b"ares/layout/1\0"
MAX_TENSORS = 65_536  # an 80-layer all-linear adapter has 1,120
MAX_NAME_BYTES = 512  # five times the longest PEFT name of a known model
MAX_DIMENSIONS = 4
MAX_SIZE = 2**32  # elements; 17 GB of float32


@dataclass(frozen=True, slots=True)
class Layout:
    """Names and shapes of the tensors of one flat vector, sorted by name.

    Raises: ShapeMismatch: names unsorted, doubled or too long, or shapes out of range.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.shapes) or not 0 < len(self.names) <= MAX_TENSORS:
            raise ShapeMismatch(f"layout of {len(self.names)} names, {len(self.shapes)} shapes")
        if any(a >= b for a, b in zip(self.names, self.names[1:], strict=False)):
            raise ShapeMismatch("layout names are not sorted and unique")
        for name, shape in zip(self.names, self.shapes, strict=True):
            if not 0 < len(name.encode()) <= MAX_NAME_BYTES:
                raise ShapeMismatch(f"layout name of {len(name)} characters")
            if not 0 < len(shape) <= MAX_DIMENSIONS or any(extent < 1 for extent in shape):
                raise ShapeMismatch(f"{name}: shape {shape} has an impossible extent")
        if self.size > MAX_SIZE:
            raise ShapeMismatch(f"layout of {self.size} elements, at most {MAX_SIZE} expected")

    @property
    def size(self) -> int:
        """Number of elements of the vector."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """`(start, stop)` of every tensor in the vector."""
        spans, start = [], 0
        for shape in self.shapes:
            stop = start + math.prod(shape)
            spans.append((start, stop))
            start = stop
        return tuple(spans)

    @property
    def digest_sha256(self) -> Digest:
        """The layout's name: sha256 of domain, count, then per tensor name, rank, extents."""
        content = [LAYOUT_DOMAIN, struct.pack("<I", len(self.names))]
        for name, shape in zip(self.names, self.shapes, strict=True):
            raw = name.encode()
            content.append(struct.pack("<H", len(raw)) + raw)
            content.append(struct.pack(f"<B{len(shape)}Q", len(shape), *shape))
        return sha256(*content)

    def split(self, vector: Vector) -> dict[str, Vector]:
        """Return the tensors of `vector` by name, as views: writing to them writes to it.

        Args:
            vector: shape (size,).
        Returns: name -> view of the layout's shape.
        Raises: ShapeMismatch: another size or dtype.
        """
        check_vector(vector, size=self.size, what="vector")
        return {
            name: vector[start:stop].reshape(shape)
            for name, shape, (start, stop) in zip(self.names, self.shapes, self.spans, strict=True)
        }

    def join(self, tensors: Mapping[str, Vector]) -> Vector:
        """Return one new vector that holds `tensors` in the layout's order.

        Args:
            tensors: exactly the layout's names, each of the layout's shape.
        Returns: shape (size,), float32.
        Raises: ShapeMismatch: a name is missing or foreign, or a shape differs.
        """
        if tensors.keys() != set(self.names):
            foreign = sorted(tensors.keys() ^ set(self.names))[:3]
            raise ShapeMismatch(f"tensor names differ from the layout's: {foreign} ...")
        vector = np.empty(self.size, dtype=FLOAT32)
        for name, view in self.split(vector).items():
            if tensors[name].shape != view.shape:
                raise ShapeMismatch(f"{name}: {tensors[name].shape}, {view.shape} expected")
            view[...] = tensors[name]
        return vector


def layout_of_shapes(shapes: Mapping[str, tuple[int, ...]]) -> Layout:
    """Return the layout of named shapes given in any order."""
    names = tuple(sorted(shapes))
    return Layout(names, tuple(tuple(shapes[name]) for name in names))
