"""Numbers to steps and codes: the inner part of the encoder, a few frames at a time.

The arithmetic is nothing, passes over memory and calls of numpy are everything. So the largest
magnitudes come from the bits of the floats, read as integers, in which larger magnitudes are
larger numbers; what is done once per block is done for a group of frames in one call; and what is done
per element is done frame by frame, in buffers that stay in a core's L2 cache.

The rule for the codes, each operation rounded to float32 on its own, `step` being the stored one:
c = floor(x / step + 2^B / 2), cut to 0 ... 2^B - 1, with x / step as x times the rounded 1 / step.
With one bit: c = 1 where x is not negative.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from ares_p2p.averaging import packing
from ares_p2p.averaging.vectors import FLOAT32, PART_ELEMENTS, Vector, parts
from ares_p2p.errors import NonFinite

FLOAT16: Final = np.dtype("<f2")
FLOAT16_INFINITY_BITS: Final = 0x7C00
GROUP_ELEMENTS: Final = 8 * PART_ELEMENTS  # 2 MB: what is done per block costs next to nothing then
_MAGNITUDE: Final = np.uint32(0x7FFF_FFFF)

# The outermost level's cell ends at this share of the block's largest magnitude: the least squared
# error on measured pseudo-gradients, not part of the format. bits -> block -> share
RANGE: Final = {
    2: {32: 0.93, 64: 0.86, 128: 0.78, 256: 0.72},
    3: {32: 1.0, 64: 0.95, 128: 0.90, 256: 0.85},
    4: {32: 1.0, 64: 1.0, 128: 0.96, 256: 0.92},
    8: {32: 1.0, 64: 1.0, 128: 1.0, 256: 1.0},
}

Bytes = npt.NDArray[np.uint8]
Halves = npt.NDArray[np.float16]


class Quantizer:
    """Scratch memory and constants of one encoding."""

    def __init__(self, *, bits: int, block: int) -> None:
        self._bits, self._block = bits, block
        self._work = np.empty(PART_ELEMENTS, dtype=FLOAT32)
        self._rows = self._work.reshape(-1, block)
        self._codes = np.empty(PART_ELEMENTS, dtype=np.int8)
        self._starts = np.arange(0, PART_ELEMENTS, block)  # of a frame's blocks
        # numpy's scalars are made once: making them takes as long as adding some thousand numbers
        levels = 1 << bits
        self._middle = np.float32(levels / 2)
        self._lowest, self._highest = np.int8(0), np.int8(min(levels - 1, 127))

    def write_frames(self, values: Vector, *, count: int, out: Bytes) -> None:
        """Write frames as the format has them: steps, then codes.

        Args:
            values: whole blocks, at most `GROUP_ELEMENTS`, from where a frame begins.
            count: how many of them are no padding.
            out: exactly what the frames take.
        Raises: NonFinite: NaN, infinity, or a number too large for a float16 step.
        """
        steps, inverses = self._steps_of(values, count)
        table, offset = values.reshape(-1, self._block), 0
        for first in range(0, len(table), len(self._rows)):
            rows = table[first : first + len(self._rows)]  # (blocks, block): one frame
            codes_at = offset + FLOAT16.itemsize * len(rows)
            stop = codes_at + rows.size * self._bits // 8
            out[offset:codes_at].view(FLOAT16)[...] = steps[first : first + len(rows)]
            codes = self._codes_of(rows, inverses[first : first + len(rows)])
            packing.pack(codes, self._bits, out[codes_at:stop])
            offset = stop

    def _codes_of(self, rows: Vector, inverses: Vector) -> Bytes:
        """Return the codes of one frame, (rows.size,).

        Args:
            rows: (blocks, block).
            inverses: what to multiply each block with, (blocks, 1).
        """
        codes = self._codes[: rows.size]
        if self._bits == 1:
            np.greater_equal(rows.reshape(-1), np.float32(0), out=codes.view(np.bool_))
            return codes.view(np.uint8)
        work = self._work[: rows.size]
        # a fifth faster than multiplying row by row: short rows cost more than elements
        np.copyto(self._rows[: len(rows)], inverses)
        np.multiply(work, rows.reshape(-1), out=work)
        np.add(work, self._middle, out=work)
        if self._bits == 8:
            work.clip(np.float32(0), np.float32(255), out=work)
            np.copyto(codes.view(np.uint8), work, casting="unsafe")
        else:  # clipping bytes is faster; a subnormal step overshoots most, by 1.5: 21 fits an int8
            np.copyto(codes, work, casting="unsafe")
            codes.clip(self._lowest, self._highest, out=codes)
        return codes.view(np.uint8)

    def _steps_of(self, values: Vector, count: int) -> tuple[Halves, Vector]:
        """Return the steps, (blocks,), and their inverses, (blocks, 1), 0 where the step is."""
        with np.errstate(over="ignore", invalid="ignore"):
            wide = self._twice_means(values, count) if self._bits == 1 else self._ranges(values)
            steps = wide.astype(FLOAT16)
        if int(steps.view(np.dtype("<u2")).max()) >= FLOAT16_INFINITY_BITS:
            raise NonFinite("vector holds NaN, infinite or far too large numbers")
        divisor = steps.astype(FLOAT32)
        inverses = np.zeros_like(divisor)
        np.divide(np.float32(1), divisor, out=inverses, where=divisor != 0)
        return steps, inverses[:, None]

    def _ranges(self, values: Vector) -> Vector:
        """Return the steps, not rounded yet, from the largest magnitudes, (blocks,)."""
        signed, unsigned = values.view(np.int32), values.view(np.uint32)
        blocks = values.size // self._block
        positive, negative = np.empty(blocks, dtype=np.int32), np.empty(blocks, dtype=np.uint32)
        first = 0
        for part in parts(values.size):
            # Signed, the largest is the largest positive one; unsigned, signs being the highest
            # bits, the most negative one if there is any. NaN is above all numbers in both.
            starts = self._starts[: (part.stop - part.start) // self._block]
            last = first + len(starts)
            np.maximum.reduceat(signed[part], starts, out=positive[first:last])
            np.maximum.reduceat(unsigned[part], starts, out=negative[first:last])
            first = last
        negative &= _MAGNITUDE
        np.maximum(positive, negative.view(np.int32), out=positive)
        factor = np.float32(2 * RANGE[self._bits][self._block] / (1 << self._bits))
        return positive.view(FLOAT32) * factor

    def _twice_means(self, values: Vector, count: int) -> Vector:
        """Return twice the mean magnitude of every block, (blocks,): levels at +- the mean.

        The sum is taken in a fixed order, so that it has the same bits everywhere: neighbours
        are added, then neighbouring sums, and so on.
        """
        block, first = self._block, 0
        sums = np.empty(values.size // block, dtype=FLOAT32)
        for part in parts(values.size):
            blocks = (part.stop - part.start) // block
            level = np.abs(values[part], out=self._work[: part.stop - part.start])
            while level.size > blocks:
                level = level[0::2] + level[1::2]
            sums[first : first + blocks] = level
            first += blocks
        last = count - (values.size - block)  # elements of the last block
        twice_means = sums * np.float32(2 / block)
        twice_means[-1] = sums[-1] * np.float32(2 / last)
        return twice_means
