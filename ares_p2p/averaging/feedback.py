"""Error feedback: what a coarse codec lost is added to the peer's next contribution.

    v = clip(u + e, -reach, reach)      u the pseudo-gradient, e the residual of the round before
    blob = encode(v) ;  e' = v - decode(blob)

A contribution made like this depends on its author's own past, which nobody else has. It cannot be
replayed, so it cannot be audited: it is for networks without audits, and for 1 bit, where what is
lost is too much to be lost. Source: Karimireddy et al., arXiv:1901.09847.

*Bounds.* `reach` is how far the round's local steps can take one parameter (`bounds.reach_of`).
No element of v is beyond it, no level of a block of v is (at 1 bit it is the block's mean
magnitude), so no element of e' is beyond it either, however many rounds go by; and the blob passes
the check that everybody makes of it. What the clip takes away is lost.

The residual is itself encoded, with 8 bits: a quarter of the memory and of the disk, and an error
of about a hundredth of what is an error already. `residual_sha256` binds it to whatever it belongs
to, as the layout's digest binds a contribution; an unbound one is refused as another layout.
"""

from __future__ import annotations

import numpy as np

from ares_p2p.averaging.codec import DEFAULT_BLOCK, encode, open_encoded
from ares_p2p.averaging.vectors import (
    FLOAT32,
    PART_ELEMENTS,
    Vector,
    VectorLayout,
    VectorSource,
)
from ares_p2p.ids import Digest

RESIDUAL_BITS = 8


def encode_with_feedback(
    update: VectorSource,
    residual: VectorSource | None,
    *,
    layout: VectorLayout,
    residual_sha256: Digest,
    reach: float,
    bits: int = 1,
    block: int = DEFAULT_BLOCK,
) -> tuple[bytes, bytes]:
    """Return the contribution for `update`, and the residual for the round after it.

    Args:
        update: the pseudo-gradient, (layout.size,); read three times.
        residual: of an earlier round, (layout.size,); None to start from zero.
        layout: of the contribution.
        residual_sha256: what the new residual carries instead of a layout's digest.
        reach: largest magnitude of an element, positive.
        bits: of the contribution.
        block: elements per step, of both.
    Returns: two encoded vectors. Beside them a few megabytes are needed.
    Raises: NonFinite: `update` holds NaN or infinity.
    """
    wanted = _Wanted(update, residual, reach)
    data = encode(wanted, bits=bits, block=block, layout_sha256=layout.digest_sha256)
    sent = open_encoded(data, layout=layout, bits=bits, block=block)
    lost = encode(
        _Minus(wanted, sent), bits=RESIDUAL_BITS, block=block, layout_sha256=residual_sha256
    )
    return data, lost


class _Wanted:
    """What should be sent: update plus residual, within reach."""

    def __init__(self, update: VectorSource, residual: VectorSource | None, reach: float) -> None:
        self._update, self._residual = update, residual
        self._reach = np.float32(reach)
        self._scratch = np.empty(PART_ELEMENTS, dtype=FLOAT32)
        self.size = update.size

    def read(self, part: slice, out: Vector) -> Vector:
        """Write one frame; see `VectorSource.read`."""
        values = self._update.read(part, out)
        if self._residual is not None:
            np.add(values, self._residual.read(part, self._scratch), out=values)
        # NaN stays NaN, for the codec to refuse; infinity would not stay infinite
        values[np.isinf(values)] = np.nan
        return np.clip(values, -self._reach, self._reach, out=values)


class _Minus:
    """One source minus another."""

    def __init__(self, first: VectorSource, second: VectorSource) -> None:
        self._first, self._second = first, second
        self._scratch = np.empty(PART_ELEMENTS, dtype=FLOAT32)
        self.size = first.size

    def read(self, part: slice, out: Vector) -> Vector:
        """Write one frame; see `VectorSource.read`."""
        values = self._first.read(part, out)
        return np.subtract(values, self._second.read(part, self._scratch), out=values)
