"""Flat parameter vectors: what is averaged, in parts that fit into a cache.

All LoRA parameters of a network are one contiguous, little-endian float32 vector. Everything that
every peer must compute to the same bits (aggregate, outer step, codec) is a chain of element-wise
numpy operations over such vectors: element-wise IEEE operations round the same way on every
machine, whatever the vector unit; sums and matrix products do not, and are used only for numbers
that are published instead of recomputed (coefficients) or compared with a tolerance (audits).

Refuses: other dtypes, other dimensions, views with gaps. It never converts silently, because a
silent conversion is a silent copy of hundreds of megabytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ares_p2p.errors import NonFinite, ShapeMismatch

Vector = npt.NDArray[np.float32]  # (size,), contiguous, little-endian

FLOAT32 = np.dtype("<f4")
PART_ELEMENTS = 65_536  # 256 kB: a part and its temporaries stay in a core's L2 cache
SMALL_PART_ELEMENTS = 16_384  # 64 kB: for chains of few operations, faster than 256 kB


class VectorLayout(Protocol):
    """The little that averaging needs to know of a layout (`ares_p2p.training.layout.Layout`)."""

    @property
    def size(self) -> int:
        """Number of elements of the vector."""
        ...

    @property
    def digest_sha256(self) -> bytes:
        """What names the layout on the wire."""
        ...

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """`(start, stop)` of every tensor, in order, without gaps."""
        ...


class VectorSource(Protocol):
    """A vector that need not lie in memory, such as an encoded one."""

    @property
    def size(self) -> int:
        """Number of elements."""
        ...

    def read(self, part: slice, out: Vector) -> Vector:
        """Write the elements of `part` (one of `parts(size)`) to the start of `out`.

        Returns: the written view of `out`, (part.stop - part.start,).
        """
        ...


def read_part(source: Vector | VectorSource, part: slice, out: Vector) -> Vector:
    """Return the elements of `part` of an array (a view) or of a source (written to `out`)."""
    return source[part] if isinstance(source, np.ndarray) else source.read(part, out)


class Difference:
    """`start - end` as a source: what local steps changed, without a vector of it in memory.

    Args:
        start: parameters before the local steps, (size,).
        end: parameters after them, (size,).
    Raises: ShapeMismatch: sizes differ.
    """

    def __init__(self, start: Vector, end: Vector) -> None:
        check_vector(start, size=start.size, what="start")
        check_vector(end, size=start.size, what="end")
        self._start, self._end = start, end
        self.size = start.size

    def read(self, part: slice, out: Vector) -> Vector:
        """Write the difference of any part; see `VectorSource.read`."""
        return np.subtract(self._start[part], self._end[part], out=out[: part.stop - part.start])


def parts(size: int, *, part_elements: int = PART_ELEMENTS) -> Iterator[slice]:
    """Yield consecutive slices that cover `range(size)`."""
    for start in range(0, size, part_elements):
        yield slice(start, min(start + part_elements, size))


def check_vector(vector: Vector, *, size: int, what: str) -> None:
    """Check that `vector` is a flat float32 vector of `size` elements.

    Args:
        vector: what is checked, shape (size,).
        size: the expected number of elements.
        what: how the message calls it.
    Raises: ShapeMismatch: another dtype, shape or memory order.
    """
    if vector.dtype != FLOAT32 or vector.shape != (size,) or not vector.flags.c_contiguous:
        raise ShapeMismatch(
            f"{what} is {vector.dtype} of shape {vector.shape}, "
            f"contiguous float32 ({size},) expected"
        )


def is_finite(vector: Vector) -> bool:
    """Return whether every element is a number; one pass, in bounded memory."""
    return all(_is_finite(vector[part]) for part in parts(vector.size))


def _is_finite(part: Vector) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        # NaN and infinity come through a sum, which writes no second array; so does overflow
        if np.isfinite(part.sum()):
            return True
    return bool(np.isfinite(part).all())


def check_finite(vector: Vector, *, what: str) -> None:
    """Check that every element of `vector` is a number.

    Raises: NonFinite: NaN or infinity somewhere.
    """
    if not is_finite(vector):
        raise NonFinite(f"{what} holds NaN or infinite numbers")
