"""The compression of pseudo-gradients: dense, blockwise, 1, 2, 3, 4 or 8 bits per element.

Stateless: equal vectors give equal bytes on every machine, and nothing is remembered between
rounds. Per block of elements one float16 `step` is stored; with B bits the code c of an element
stands for (c - (2^B - 1) / 2) * step, 2^B evenly spaced levels without zero. The encoder takes the
nearest level. `step` comes from the block's largest magnitude, which has the same bits however
it is computed. A block below float16's smallest number (step < 6e-8) becomes zero.

With 1 bit the two levels are -step / 2 and step / 2: the sign, and a step of twice the block's
mean magnitude, which makes the squared error least. The sum is taken in a fixed order (see
`quantize`). What one bit loses is too much to be lost: it is meant for `feedback`, which adds it to
the next round's contribution, so for networks without audits.

Format, little-endian:

    8 bytes   magic "ARESQNT1"
    u8        bits, 1, 2, 3, 4 or 8
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

import io
import math
import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ares_p2p.averaging import packing
from ares_p2p.averaging.quantize import (
    FLOAT16,
    FLOAT16_INFINITY_BITS,
    GROUP_ELEMENTS,
    Quantizer,
)
from ares_p2p.averaging.vectors import (
    FLOAT32,
    PART_ELEMENTS,
    Vector,
    VectorLayout,
    VectorSource,
    check_vector,
    parts,
)
from ares_p2p.errors import NonFinite, Oversize, PayloadMalformed, ShapeMismatch
from ares_p2p.ids import Digest

CODEC_MAGIC = b"ARESQNT1"
WIDTHS = (1, 2, 3, 4, 8)  # bits per element
BLOCKS = (32, 64, 128, 256)  # elements per step
DEFAULT_BLOCK = 128
FRAME_ELEMENTS = PART_ELEMENTS
_FAR = 60  # binary exponents of a factor that are never near the ends of float32
_HEADER = struct.Struct("<8sBBHIQ32s")


def check_codec(bits: int, block: int) -> None:
    """Check that the codec knows `bits` per element and `block` elements per step.

    Raises: PayloadMalformed: it does not.
    """
    if bits not in WIDTHS or block not in BLOCKS:
        raise PayloadMalformed(
            f"codec of {bits} bits, block {block}; 1, 2, 3, 4 or 8 bits, "
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
    vector: Vector | VectorSource,
    *,
    bits: int,
    layout_sha256: Digest,
    block: int = DEFAULT_BLOCK,
) -> bytes:
    """Compress `vector`.

    Args:
        vector: (size,); a source is read frame by frame, in order, once.
        bits: per element: 1, 2, 3, 4 or 8.
        layout_sha256: digest of the vector's layout.
        block: elements per step: 32, 64, 128 or 256.
    Returns: `encoded_size_bytes` bytes. Beside them a few megabytes are needed.
    Raises:
        NonFinite: NaN, infinity, or a number too large for a float16 step.
        ShapeMismatch: not a flat float32 vector.
        PayloadMalformed: unknown bits or block.
    """
    check_codec(bits, block)
    if isinstance(vector, np.ndarray):
        check_vector(vector, size=vector.size, what="vector")
    size = vector.size
    # bytes that are written in place, and not copied when they are taken out
    file = io.BytesIO(bytes(encoded_size_bytes(size, bits=bits, block=block)))
    data = np.frombuffer(file.getbuffer(), dtype=np.uint8)
    header = _HEADER.pack(CODEC_MAGIC, bits, 0, block, 0, size, layout_sha256)
    data[: _HEADER.size] = np.frombuffer(header, dtype=np.uint8)
    quantizer, reader = Quantizer(bits=bits, block=block), _GroupReader(vector, block)
    offset = _HEADER.size
    for group in parts(size, part_elements=GROUP_ELEMENTS):
        stop = encoded_size_bytes(group.stop, bits=bits, block=block)
        count = group.stop - group.start
        quantizer.write_frames(reader.read(group), count=count, out=data[offset:stop])
        offset = stop
    del data
    return file.getvalue()


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
        return self.read_scaled(part, out, np.float32(1))

    def takes_exactly(self, factor: float) -> bool:
        """Return whether `read_scaled` rounds nothing, so gives what multiplying later gives.

        A step has 11 significant bits, a level `bits` of them, a float32 24: what is left is
        for the factor.
        """
        mantissa, exponent = math.frexp(factor)
        room = 24 - 11 - self.bits
        return abs(exponent) < _FAR and math.ldexp(mantissa, room).is_integer()

    def read_scaled(self, part: slice, out: Vector, factor: np.float32) -> Vector:
        """Decode one frame, each step multiplied by `factor`: a pass over the elements less."""
        count = part.stop - part.start
        frame = self._frame(part)
        blocks = -(-count // self.block)
        padded = blocks * self.block
        fits = out.size >= padded
        whole = out[:padded] if fits else np.empty(padded, dtype=FLOAT32)
        packing.unpack_centred(frame[2 * blocks :], self.bits, whole)
        steps = frame[: 2 * blocks].view(FLOAT16).astype(FLOAT32)
        steps *= factor
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
            if int(raw.max()) < FLOAT16_INFINITY_BITS:
                continue
            if bool(((raw & FLOAT16_INFINITY_BITS) == FLOAT16_INFINITY_BITS).any()):
                raise NonFinite(f"a step near element {part.start} is NaN or infinite")
            raise PayloadMalformed(f"a step near element {part.start} is negative")

    def largest_magnitude(self) -> float:
        """Return a bound on every element's magnitude: the outermost level of the widest block."""
        widest = 0.0
        for part in parts(self.size, part_elements=FRAME_ELEMENTS):
            blocks = -(-(part.stop - part.start) // self.block)
            widest = max(widest, float(self._frame(part)[: 2 * blocks].view(FLOAT16).max()))
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
    return blocks * (FLOAT16.itemsize + block * bits // 8)


class _GroupReader:
    """Reads groups of frames, the last one filled up with zeros to whole blocks."""

    def __init__(self, vector: Vector | VectorSource, block: int) -> None:
        self._vector, self._block = vector, block
        self._scratch = np.empty(0, dtype=FLOAT32)

    def read(self, group: slice) -> Vector:
        """Return the elements of `group`; a view of the vector where that is possible."""
        vector, count = self._vector, group.stop - group.start
        padded = -(-count // self._block) * self._block
        if isinstance(vector, np.ndarray) and count == padded:
            return vector[group]
        if self._scratch.size < padded:
            self._scratch = np.empty(padded, dtype=FLOAT32)
        values = self._scratch[:padded]
        values[count:] = 0
        if isinstance(vector, np.ndarray):
            values[:count] = vector[group]
            return values
        for start in range(group.start, group.stop, FRAME_ELEMENTS):
            part = slice(start, min(start + FRAME_ELEMENTS, group.stop))
            vector.read(part, values[part.start - group.start : part.stop - group.start])
        return values
