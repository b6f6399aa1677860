"""The sum of a round: what it is, and how it travels when the round is exchanged by parts.

`round_sum` is the definition, for whoever holds all contributions. Without parts it is `combine`:
coefficient times pseudo-gradient, added up in commit order. With parts every part of that sum is
encoded like a contribution, with the bits that the cycle's configuration names for it, and decoded
again; what the outer step uses is that. So whoever fetched the encoded parts (`join_parts`) has the
same bits as whoever added everything up, and a reducer (`reduce_part`) makes the same bytes as
the coordinator that signed their digest. A part carries a digest of its plan and its number: the
parts of another round, or in another order, are refused as another layout.

Source: docs/adr/0007.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ares_p2p.averaging.aggregate import combine
from ares_p2p.averaging.bounds import check_contribution, reach_of
from ares_p2p.averaging.codec import EncodedVector, encode, open_encoded
from ares_p2p.averaging.runs import (
    Run,
    open_run,
    part_sizes,
    read_whole,
    run_bytes,
    run_of,
    split_runs,
)
from ares_p2p.averaging.vectors import FLOAT32, Vector, VectorSource
from ares_p2p.domain import RoundPlan, TrainingConfig
from ares_p2p.ids import Digest, sha256
from ares_p2p.training.layout import Layout

_PART_DOMAIN = b"ares/part/1\0"

Weighted = tuple[Vector | VectorSource, float]  # a pseudo-gradient and its coefficient


@dataclass(frozen=True, slots=True)
class PartLayout:
    """One part of a round's sum, as a layout of its own that nothing else has.

    Args:
        number: from 0.
        run: its elements of the vector, start and stop.
    """

    number: int
    run: Run
    digest_sha256: Digest

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.run[1] - self.run[0]

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """One span: a part knows no tensors."""
        return ((0, self.size),)


def parts_of(layout: Layout, *, plan: RoundPlan, plan_sha256: Digest) -> tuple[PartLayout, ...]:
    """Return the parts of a round's sum; none when everybody fetches everything."""
    if not plan.parts:
        return ()
    return tuple(
        PartLayout(
            number,
            run,
            sha256(
                _PART_DOMAIN,
                layout.digest_sha256,
                plan_sha256,
                struct.pack("<II", plan.parts, number),
            ),
        )
        for number, run in enumerate(split_runs(layout.size, plan.parts))
    )


def sizes_of_parts(size: int, *, plan: RoundPlan, training: TrainingConfig) -> tuple[int, ...]:
    """Return the bytes of every part of a round, for a vector of `size` elements."""
    if not plan.parts:
        return ()
    return part_sizes(size, plan.parts, bits=training.down_bits, block=training.codec_block)


# --- for whoever holds whole contributions -----------------------------------------------------


def round_sum(
    contributions: Sequence[Weighted], training: TrainingConfig, parts: Sequence[PartLayout] = ()
) -> Vector:
    """Return the round's sum, (size,), from all contributions in commit order; at least one."""
    if parts:
        return join_parts(encode_sum(contributions, training, parts), training, parts)
    vectors, coefficients = zip(*contributions, strict=True)
    return combine(vectors, coefficients)


def encode_sum(
    contributions: Sequence[Weighted], training: TrainingConfig, parts: Sequence[PartLayout]
) -> list[bytes]:
    """Return every part of the round's sum as it travels."""
    return [
        reduce_part(
            [(run_of(vector, part.run), value) for vector, value in contributions], training, part
        )
        for part in parts
    ]


# --- for reducers ------------------------------------------------------------------------------


def range_of_part(part: PartLayout, training: TrainingConfig) -> tuple[int, int]:
    """Return which bytes of every contribution a reducer of the part needs."""
    return run_bytes(part.run, bits=training.codec_bits, block=training.codec_block)


def open_piece(
    data: bytes | memoryview, *, part: PartLayout, training: TrainingConfig
) -> EncodedVector:
    """Return a part of somebody's contribution, checked like a whole one.

    Args:
        data: the bytes at `range_of_part`.
    Raises: PeerFault: it can be no part of a contribution.
    """
    piece = open_run(data, part.run, bits=training.codec_bits, block=training.codec_block)
    reach = reach_of(training.max_steps, lr=training.inner_lr, beta2=training.beta2)
    check_contribution(piece, size=part.size, reach=reach)
    return piece


def reduce_part(pieces: Sequence[Weighted], training: TrainingConfig, part: PartLayout) -> bytes:
    """Return one part of the round's sum as it travels.

    Args:
        pieces: that part of every contribution that counts, (part.size,), with its coefficient,
            in commit order; at least one.
    """
    vectors, coefficients = zip(*pieces, strict=True)
    return encode(
        combine(vectors, coefficients),
        bits=training.down_bits,
        block=training.codec_block,
        layout_sha256=part.digest_sha256,
    )


# --- for everybody -----------------------------------------------------------------------------


def open_part(
    data: bytes | memoryview, *, part: PartLayout, training: TrainingConfig
) -> EncodedVector:
    """Return a part of the sum, checked.

    Raises: PeerFault: truncated, oversize, non-finite, of another round or another part.
    """
    return open_encoded(data, layout=part, bits=training.down_bits, block=training.codec_block)


def join_parts(
    data: Sequence[bytes], training: TrainingConfig, parts: Sequence[PartLayout]
) -> Vector:
    """Return the round's sum, (size,), from all its parts in order.

    Raises: PeerFault: see `open_part`.
    """
    opened = [
        open_part(one, part=part, training=training) for one, part in zip(data, parts, strict=True)
    ]
    total = np.empty(parts[-1].run[1], dtype=FLOAT32)
    return read_whole(opened, [part.run for part in parts], total)
