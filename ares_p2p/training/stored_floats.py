"""Weights as they are stored, bytes of float32, float16 or bfloat16, and as numbers.

Storing rounds to nearest, ties to even (IEEE 754, and what torch does): first to float32, from
there to the stored type. Numpy has no bfloat16; it is the upper half of a float32.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ares_p2p.errors import NonFinite

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


def decode_floats(data: bytes | memoryview, dtype: str) -> npt.NDArray[np.float64]:
    """Return the numbers that `data` stores, exactly.

    Args:
        dtype: "F32", "F16" or "BF16".
    Returns: (elements,).
    """
    if dtype == "BF16":
        upper = np.frombuffer(data, dtype="<u2").astype("<u4")
        return (upper << 16).view("<f4").astype(np.float64)
    return np.frombuffer(data, dtype="<f4" if dtype == "F32" else "<f2").astype(np.float64)


def encode_floats(values: npt.NDArray[np.float64], dtype: str, *, what: str) -> bytes:
    """Return `values` as they are stored in `dtype`, rounded to nearest even.

    Raises: NonFinite: one of them is too large for the type, or was no number; `what` names it.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        single = values.astype("<f4")
        if dtype == "F32":
            stored: npt.NDArray[np.generic] = single
            is_finite = bool(np.isfinite(single).all())
        elif dtype == "F16":
            half = single.astype("<f2")
            stored, is_finite = half, bool(np.isfinite(half).all())
        else:
            raw = single.view("<u4")
            odd = (raw >> 16) & np.uint32(1)
            # a NaN may wrap around here, but it is refused below
            brain = ((raw + np.uint32(0x7FFF) + odd) >> 16).astype("<u2")
            is_finite = bool(np.isfinite(single).all()) and not bool(
                ((brain & 0x7F80) == 0x7F80).any()
            )
            stored = brain
    if not is_finite:
        raise NonFinite(f"{what} does not fit {dtype} after the merge")
    return stored.tobytes()
