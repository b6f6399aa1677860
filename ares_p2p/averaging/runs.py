"""Runs of whole frames: where they lie in an encoded vector, and how one is read alone.

A frame of an encoded vector needs no other frame (see `codec`), so a run of frames, cut out of
somebody's blob by its bytes, is a vector of its own. What the blob's head says is not looked at
here: who fetches a run knows from the plan what the blob must be.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ares_p2p.averaging.codec import (
    FRAME_ELEMENTS,
    EncodedVector,
    check_codec,
    encoded_size_bytes,
)
from ares_p2p.averaging.vectors import Vector, VectorSource
from ares_p2p.errors import PayloadMalformed
from ares_p2p.rounds.parts import split_frames

Run = tuple[int, int]  # elements, start and stop; both where a frame ends, or the vector


def frames_of(size: int) -> int:
    """Return how many frames a vector of `size` elements has."""
    return -(-size // FRAME_ELEMENTS)


def split_runs(size: int, parts: int) -> tuple[Run, ...]:
    """Return the runs of a vector's parts, in order.

    Raises: ValueError: no part, or more parts than frames.
    """
    return tuple(
        (run.start * FRAME_ELEMENTS, min(run.stop * FRAME_ELEMENTS, size))
        for run in split_frames(frames_of(size), parts)
    )


def run_bytes(run: Run, *, bits: int, block: int) -> tuple[int, int]:
    """Return where a run's bytes start and stop in the encoded vector that it is a run of."""
    start, stop = run
    return (
        encoded_size_bytes(start, bits=bits, block=block),
        encoded_size_bytes(stop, bits=bits, block=block),
    )


def part_sizes(size: int, parts: int, *, bits: int, block: int) -> tuple[int, ...]:
    """Return the bytes of every part when each is encoded as a vector of its own."""
    return tuple(
        encoded_size_bytes(stop - start, bits=bits, block=block)
        for start, stop in split_runs(size, parts)
    )


def open_run(data: bytes | memoryview, run: Run, *, bits: int, block: int) -> EncodedVector:
    """Check the bytes of a run, from anybody, and return it as a vector of its own.

    Args:
        data: what lies at `run_bytes`.
    Raises: PayloadMalformed: another number of bytes, or a negative step. NonFinite: a step is
        NaN or infinite.
    """
    check_codec(bits, block)
    start, stop = run_bytes(run, bits=bits, block=block)
    if len(data) != stop - start:
        raise PayloadMalformed(f"a run of {len(data)} bytes, {stop - start} expected")
    head = encoded_size_bytes(0, bits=bits, block=block)
    whole = np.empty(head + len(data), dtype=np.uint8)
    whole[head:] = np.frombuffer(data, dtype=np.uint8)
    encoded = EncodedVector(whole, run[1] - run[0], bits, block)
    encoded.check_steps()
    return encoded


class RunOf:
    """A run of a vector that need not lie in memory, as a vector of its own."""

    def __init__(self, source: VectorSource, run: Run) -> None:
        self._source = source
        self._start = run[0]
        self.size = run[1] - run[0]

    def read(self, part: slice, out: Vector) -> Vector:
        """Decode one frame; see `VectorSource.read`."""
        return self._source.read(slice(part.start + self._start, part.stop + self._start), out)


def run_of(source: Vector | VectorSource, run: Run) -> Vector | VectorSource:
    """Return a run of an array (a view) or of a source."""
    return source[run[0] : run[1]] if isinstance(source, np.ndarray) else RunOf(source, run)


def read_whole(sources: Sequence[VectorSource], runs: Sequence[Run], out: Vector) -> Vector:
    """Write the vectors of all runs, one after the other, to `out`."""
    for source, (start, stop) in zip(sources, runs, strict=True):
        for first in range(start, stop, FRAME_ELEMENTS):
            last = min(first + FRAME_ELEMENTS, stop)
            source.read(slice(first - start, last - start), out[first:last])
    return out
