"""The compression of pseudo-gradients: dense, blockwise, 2, 3, 4 or 8 bits per element.

Stateless: equal vectors give equal bytes on every machine, and nothing is remembered between
rounds. Per block of elements one float16 `step` is stored; with B bits the code c of an element
stands for (c - (2^B - 1) / 2) * step, 2^B evenly spaced levels without zero. The encoder takes the
nearest level. `step` comes from the block's largest magnitude, which has the same bits however
it is computed; sums would not. A block below float16's smallest number (step < 6e-8) becomes zero.

Format, little-endian:

    8 bytes   magic "ARESQNT1"
    u8        bits, 2, 3, 4 or 8
    u8        zero
    u16       block, elements per step: 32, 64, 128 or 256
    u32       zero
    u64       size, elements of the vector
    32 bytes  digest of the layout
    frames    one per 65,536 elements (the last may be shorter, rounded up to whole blocks):
                f16[blocks]  steps, finite, not negative
                codes, packed from the lowest bit up: element i of the frame has the bits
                i * B ... i * B + B - 1 of the frame's code bytes read as one little-endian number

Frames can be cut out and decoded alone, which is what a butterfly exchange does. What the codes of
the padding say is ignored.

Measured on pseudo-gradients of RMSProp, H = 10 (relative error, block 64 / 128 / 256): 2 bits
0.306 / 0.317 / 0.324, 3 bits 0.157 / 0.166 / 0.173, 4 bits 0.080 / 0.086 / 0.091. Scaling by the
root mean square with Gaussian-optimal levels was no better at 2 bits (0.300 / 0.309 / 0.316) and
worse at 3 and 4 (0.169 / 0.176, 0.091 / 0.094). A quarter of a bit per element for block 64 buys
less than its price: 128 is the default.

Refuses: other bits, blocks, sizes or layouts than the round's, NaN, trailing or missing bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ares_p2p.averaging import packing
from ares_p2p.averaging.vectors import (
    FLOAT32,
    PART_ELEMENTS,
    Vector,
    VectorLayout,
    check_vector,
    parts,
)
from ares_p2p.errors import NonFinite, Oversize, PayloadMalformed, ShapeMismatch
from ares_p2p.ids import Digest

CODEC_MAGIC = b"ARESQNT1"
DEFAULT_BLOCK = 128
FRAME_ELEMENTS = PART_ELEMENTS
_HEADER = struct.Struct("<8sBBHIQ32s")
_FLOAT16 = np.dtype("<f2")
_FLOAT16_INFINITY_BITS = 0x7C00

# The outermost level's cell ends at this share of the block's largest magnitude: the least squared
# error on measured pseudo-gradients, not part of the format. bits -> block -> share
_RANGE = {
    2: {32: 0.93, 64: 0.86, 128: 0.78, 256: 0.72},
    3: {32: 1.0, 64: 0.95, 128: 0.90, 256: 0.85},
    4: {32: 1.0, 64: 1.0, 128: 0.96, 256: 0.92},
    8: {32: 1.0, 64: 1.0, 128: 1.0, 256: 1.0},
}


def check_codec(bits: int, block: int) -> None:
    """Check that the codec knows `bits` per element and `block` elements per step.

    Raises: PayloadMalformed: it does not.
    """
    if bits not in _RANGE or block not in _RANGE[bits]:
        raise PayloadMalformed(
            f"codec of {bits} bits, block {block}; 2, 3, 4 or 8 bits, "
            "block 32, 64, 128 or 256 expected"
        )


def encoded_size_bytes(size: int, *, bits: int, block: int = DEFAULT_BLOCK) -> int:
    """Return how many bytes a vector of `size` elements has when encoded."""
    whole, rest = divmod(size, FRAME_ELEMENTS)
    return (
        _HEADER.size
        + whole * _frame_bytes(FRAME_ELEMENTS, bits=bits, block=block)
        + _frame_bytes(rest, bits=bits, block=block)
    )


def encode(
    vector: Vector, *, bits: int, layout_sha256: Digest, block: int = DEFAULT_BLOCK
) -> bytes:
    """Compress `vector`.

    Args:
        vector: (size,).
        bits: per element: 2, 3, 4 or 8.
        layout_sha256: digest of the vector's layout.
        block: elements per step: 32, 64, 128 or 256.
    Returns: `encoded_size_bytes` bytes.
    Raises:
        NonFinite: NaN, infinity, or a number too large for a float16 step.
        ShapeMismatch: not a flat float32 vector.
        PayloadMalformed: unknown bits or block.
    """
    check_codec(bits, block)
    check_vector(vector, size=vector.size, what="vector")
    data = np.empty(encoded_size_bytes(vector.size, bits=bits, block=block), dtype=np.uint8)
    header = _HEADER.pack(CODEC_MAGIC, bits, 0, block, 0, vector.size, layout_sha256)
    data[: _HEADER.size] = np.frombuffer(header, dtype=np.uint8)
    work = np.empty(FRAME_ELEMENTS, dtype=FLOAT32)
    offset = _HEADER.size
    for part in parts(vector.size, part_elements=FRAME_ELEMENTS):
        stop = offset + _frame_bytes(part.stop - part.start, bits=bits, block=block)
        _encode_frame(vector[part], data[offset:stop], work=work, bits=bits, block=block)
        offset = stop
    return data.tobytes()


def decode(
    data: bytes | memoryview,
    *,
    layout: VectorLayout,
    bits: int,
    block: int = DEFAULT_BLOCK,
    max_bytes: int | None = None,
) -> Vector:
    """Return the whole vector of `data`, from anybody; see `open_encoded`.

    Returns: (layout.size,), finite.
    Raises: what `open_encoded` raises.
    """
    encoded = open_encoded(data, layout=layout, bits=bits, block=block, max_bytes=max_bytes)
    vector = np.empty(encoded.size, dtype=FLOAT32)
    for part in parts(encoded.size, part_elements=FRAME_ELEMENTS):
        encoded.read(part, vector[part])
    return vector


def open_encoded(
    data: bytes | memoryview,
    *,
    layout: VectorLayout,
    bits: int,
    block: int = DEFAULT_BLOCK,
    max_bytes: int | None = None,
) -> EncodedVector:
    """Check `data`, from anybody, and return it ready to be read by parts.

    After this check every read succeeds and gives finite numbers.

    Args:
        data: the whole blob.
        layout: what the network trains.
        bits: what the round's codec is.
        block: the same.
        max_bytes: an upper bound; without it the exact size is the bound.
    Raises:
        Oversize: more bytes than the bound.
        PayloadMalformed: no magic, another codec, missing or trailing bytes, a negative step.
        ShapeMismatch: a vector of another layout.
        NonFinite: a step is NaN or infinite.
    """
    check_codec(bits, block)
    expected = encoded_size_bytes(layout.size, bits=bits, block=block)
    limit = expected if max_bytes is None else max_bytes
    if len(data) > limit:
        raise Oversize(f"contribution of {len(data)} bytes, at most {limit} expected")
    if len(data) < _HEADER.size:
        raise PayloadMalformed(f"contribution of {len(data)} bytes is shorter than its header")
    magic, its_bits, zero, its_block, zeros, size, layout_sha256 = _HEADER.unpack_from(data)
    if magic != CODEC_MAGIC or zero or zeros:
        raise PayloadMalformed("contribution without its magic")
    if layout_sha256 != layout.digest_sha256 or size != layout.size:
        raise ShapeMismatch(
            f"contribution of layout {layout_sha256.hex()[:12]} with {size} elements, "
            f"{layout.digest_sha256.hex()[:12]} with {layout.size} expected"
        )
    if (its_bits, its_block) != (bits, block):
        raise PayloadMalformed(
            f"contribution of {its_bits} bits, block {its_block}; {bits}, {block} expected"
        )
    if len(data) != expected:
        raise PayloadMalformed(f"contribution of {len(data)} bytes, {expected} expected")
    encoded = EncodedVector(np.frombuffer(data, dtype=np.uint8), size, bits, block)
    encoded.check_steps()
    return encoded


@dataclass(frozen=True, slots=True, eq=False)
class EncodedVector:
    """A checked blob that is decoded part by part; made by `open_encoded`."""

    data: npt.NDArray[np.uint8]
    size: int
    bits: int
    block: int

    def read(self, part: slice, out: Vector) -> Vector:
        """Decode one frame; see `VectorSource.read`."""
        count = part.stop - part.start
        frame = self._frame(part)
        blocks = -(-count // self.block)
        padded = blocks * self.block
        fits = out.size >= padded
        whole = out[:padded] if fits else np.empty(padded, dtype=FLOAT32)
        packing.unpack_centred(frame[2 * blocks :], self.bits, whole)
        steps = frame[: 2 * blocks].view(_FLOAT16).astype(FLOAT32)
        table = whole.reshape(blocks, self.block)
        np.multiply(table, steps[:, None], out=table)
        if not fits:
            out[:count] = whole[:count]
        return out[:count]

    def check_steps(self) -> None:
        """Check every step; see `open_encoded`."""
        for part in parts(self.size, part_elements=FRAME_ELEMENTS):
            blocks = -(-(part.stop - part.start) // self.block)
            raw = self._frame(part)[: 2 * blocks].view(np.dtype("<u2"))
            if int(raw.max()) < _FLOAT16_INFINITY_BITS:
                continue
            if bool(((raw & _FLOAT16_INFINITY_BITS) == _FLOAT16_INFINITY_BITS).any()):
                raise NonFinite(f"a step near element {part.start} is NaN or infinite")
            raise PayloadMalformed(f"a step near element {part.start} is negative")

    def largest_magnitude(self) -> float:
        """Return a bound on every element's magnitude: the outermost level of the widest block."""
        widest = 0.0
        for part in parts(self.size, part_elements=FRAME_ELEMENTS):
            blocks = -(-(part.stop - part.start) // self.block)
            widest = max(widest, float(self._frame(part)[: 2 * blocks].view(_FLOAT16).max()))
        return widest * ((1 << self.bits) - 1) / 2

    def _frame(self, part: slice) -> npt.NDArray[np.uint8]:
        number, rest = divmod(part.start, FRAME_ELEMENTS)
        if rest or part.stop != min(part.start + FRAME_ELEMENTS, self.size):
            raise ValueError(f"part {part} is no frame")
        start = _HEADER.size + number * _frame_bytes(
            FRAME_ELEMENTS, bits=self.bits, block=self.block
        )
        count = part.stop - part.start
        return self.data[start : start + _frame_bytes(count, bits=self.bits, block=self.block)]


def _frame_bytes(count: int, *, bits: int, block: int) -> int:
    blocks = -(-count // block)
    return blocks * (_FLOAT16.itemsize + block * bits // 8)


def _encode_frame(
    values: Vector, frame: npt.NDArray[np.uint8], *, work: Vector, bits: int, block: int
) -> None:
    """Encode one frame's `values`, (count,), into `frame`, using `work` as a scratch."""
    blocks = -(-values.size // block)
    padded = blocks * block
    numbers = work[:padded]
    numbers[values.size :] = 0
    np.abs(values, out=numbers[: values.size])
    # reduceat, because reducing the short rows of a table is half as fast
    largest = np.maximum.reduceat(numbers, np.arange(0, padded, block))  # (blocks,)
    levels = 1 << bits
    with np.errstate(over="ignore"):
        steps = (largest * np.float32(2 * _RANGE[bits][block] / levels)).astype(_FLOAT16)
    if not bool(np.isfinite(steps).all()):
        raise NonFinite("vector holds NaN, infinite or far too large numbers")
    frame[: 2 * blocks].view(_FLOAT16)[...] = steps
    divisor = steps.astype(FLOAT32)
    inverse = np.divide(np.float32(1), divisor, out=np.zeros_like(divisor), where=divisor > 0)

    table = numbers.reshape(blocks, block)
    if values.size < padded:
        numbers[: values.size] = values
        values = numbers
    np.multiply(values.reshape(blocks, block), inverse[:, None], out=table)
    np.add(numbers, np.float32(levels / 2), out=numbers)
    if bits == 8:
        np.clip(numbers, np.float32(0), np.float32(levels - 1), out=numbers)
        codes = numbers.astype(np.uint8)
    else:  # clipping bytes is faster; a subnormal step overshoots most, by 1.5: 21 fits an int8
        signed = numbers.astype(np.int8)
        codes = np.clip(signed, 0, levels - 1, out=signed).view(np.uint8)
    packing.pack(codes, bits, frame[2 * blocks :])
