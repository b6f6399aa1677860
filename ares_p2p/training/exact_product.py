"""The product of two thin matrices with the same bits on every machine.

A float32 product differs in its last bits between processors, libraries and numbers of threads,
because each adds in another order. Peers that merge for themselves need one answer. So the factors
are first rounded to fixed point, every row of the left one and every column of the right one with a
scale of its own, a power of two:

    B[i, k] = p[i, k] 2^(e_i - b),   A[k, j] = q[k, j] 2^(f_j - b),   |p|, |q| <= 2^b integers

with 2 b + ceil(log2 K) <= 53. Then every product and every partial sum of sum_k p[i, k] q[k, j] is an
integer of at most 53 bits: float64 holds it exactly, whatever the order, fused or not, with any
library that multiplies and adds. What is lost is the rounding to b bits (21 for K up to 2,048), the
same for everybody: at most 2^-22 of the largest element of the row or column, about what a float32
sum of K terms loses by its order.

Source: the error-free splitting of Ozaki et al., "Error-free transformations of matrix
multiplication by using fast routines of matrix multiplication", Numer. Algorithms 59 (2012), with
one slice; docs/adr/0011-merging-a-stack-into-its-base.md.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ares_p2p.errors import NonFinite

SIGNIFICAND_BITS = 53  # of float64

Float64 = npt.NDArray[np.float64]


def fixed_point_bits(inner: int) -> int:
    """Return b: how many bits a factor keeps when `inner` products are added, at least 1."""
    return (SIGNIFICAND_BITS - max(0, inner - 1).bit_length()) // 2


class ExactProduct:
    """`left @ right` in fixed point, made row block by row block.

    Args:
        left: (rows, inner), finite; any float type.
        right: (inner, columns), finite.
    Raises: NonFinite: NaN or infinity in a factor.
    """

    def __init__(self, left: npt.NDArray[np.floating], right: npt.NDArray[np.floating]) -> None:
        inner = right.shape[0]
        assert left.shape[1] == inner
        self._bits = fixed_point_bits(inner)
        self._left = left
        self._right, exponents = _fixed(right, self._bits, axis=0)
        self._right_scale = np.ldexp(1.0, exponents - self._bits)  # (1, columns)

    def rows(self, start: int, stop: int) -> Float64:
        """Return the rows from `start` to before `stop`, (stop - start, columns)."""
        left, exponents = _fixed(self._left[start:stop], self._bits, axis=1)
        product = left @ self._right  # integers below 2^53: exact in any order
        product *= np.ldexp(1.0, exponents - self._bits)  # powers of two: exact
        product *= self._right_scale
        return product


def _fixed(
    matrix: npt.NDArray[np.floating], bits: int, *, axis: int
) -> tuple[Float64, npt.NDArray[np.int32]]:
    """Return integers of at most `bits` bits, and the exponent of each row or column.

    Args:
        axis: along which the largest element is looked for; 1: a scale for each row.
    """
    wide = matrix.astype(np.float64)
    largest = np.abs(wide).max(axis=axis, keepdims=True)
    if not np.isfinite(largest).all():
        raise NonFinite("a factor of the merge holds NaN or infinity")
    exponents = np.frexp(largest)[1]  # largest < 2^exponent
    wide *= np.ldexp(1.0, bits - exponents)
    return np.rint(wide, out=wide), exponents
