"""Packs codes of 1, 2, 3, 4 or 8 bits into bytes and back, at the speed of memory.

Element i lies in the bits i * B ... i * B + B - 1 of the bytes read as one little-endian number.
Unpacking looks several codes up at once in a table of *centred* codes, c - (2^B - 1) / 2, as
float32: one lookup of 16 bytes writes four elements of 2 or 3 bits, one of 32 eight of 1 bit.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from ares_p2p.averaging.vectors import FLOAT32, Vector

Bytes = npt.NDArray[np.uint8]
_U16, _U32, _U64 = np.dtype("<u2"), np.dtype("<u4"), np.dtype("<u8")
# numpy's scalars, made once: in each call they would cost as much as the work
_MEET_OF_TWO, _TO_LOWER_OF_TWO = np.uint16((1 << 8) + (1 << 4)), np.uint16(8)
_MEET_OF_FOUR = np.uint32((1 << 24) + (1 << 18) + (1 << 12) + (1 << 6))
_TO_LOWEST_OF_FOUR = np.uint32(24)


def pack(codes: Bytes, bits: int, out: Bytes) -> None:
    """Pack `codes` into `out`.

    Args:
        codes: (count,), each below 2^bits, count a multiple of 8; contiguous, overwritten.
        bits: 1, 2, 3, 4 or 8.
        out: (count * bits / 8,).
    """
    if bits == 8:
        out[...] = codes
    elif bits == 1:
        out[...] = np.packbits(codes, bitorder="little")
    elif bits == 4:  # two codes, one in each byte of a word, meet in its higher byte
        pairs = codes.view(_U16)
        np.multiply(pairs, _MEET_OF_TWO, out=pairs)
        np.right_shift(pairs, _TO_LOWER_OF_TWO, out=pairs)
        np.copyto(out, pairs, casting="unsafe")
    elif bits == 2:  # four codes, one in each byte of a word, meet in its highest byte
        fours = codes.view(_U32)
        np.multiply(fours, _MEET_OF_FOUR, out=fours)
        np.right_shift(fours, _TO_LOWEST_OF_FOUR, out=fours)
        np.copyto(out, fours, casting="unsafe")
    else:  # eight codes of 3 bits, one in each byte of a word, become its lowest 24 bits
        eights = codes.view(_U64)
        eights |= eights >> 5
        eights &= 0x003F003F003F003F
        eights |= eights >> 10
        eights &= 0x00000FFF00000FFF
        eights |= eights >> 20
        out.reshape(-1, 3)[...] = eights.view(np.uint8).reshape(-1, 8)[:, :3]


def unpack_centred(packed: Bytes, bits: int, out: Vector) -> None:
    """Write the centred codes of `packed` to `out`.

    Args:
        packed: (count * bits / 8,).
        bits: 1, 2, 3, 4 or 8.
        out: (count,), count a multiple of 8; contiguous.
    """
    if bits == 8:  # a conversion is faster than a lookup of one
        np.subtract(packed, np.float32(127.5), out=out, dtype=FLOAT32)
        return
    table = _centred_table(bits)
    if bits == 3:  # three bytes are two groups of four codes, twelve bits each
        low, middle, high = packed.reshape(-1, 3).astype(_U16).T
        groups = np.empty((low.size, 2), dtype=_U16)
        groups[:, 0] = low | ((middle & 15) << 8)
        groups[:, 1] = (middle >> 4) | (high << 4)
        packed_groups: npt.NDArray[np.unsignedinteger] = groups.reshape(-1)
    else:
        packed_groups = packed
    # mode="clip" writes to `out` without a temporary; the table covers every index
    table.take(packed_groups, out=out.view(table.dtype), mode="clip")


@cache
def _centred_table(bits: int) -> npt.NDArray[np.generic]:
    """Return what each group of codes stands for: 2, 4 or 8 float32 as one item."""
    per_group = {1: 8, 2: 4, 3: 4, 4: 2}[bits]
    group = np.arange(1 << (bits * per_group), dtype=np.uint32)[:, None]
    codes = (group >> (bits * np.arange(per_group, dtype=np.uint32))) & ((1 << bits) - 1)
    centred = (codes - (2**bits - 1) / 2).astype(FLOAT32)  # halves: exact
    item = {2: "<u8", 4: "<c16", 8: "V32"}[per_group]
    table: npt.NDArray[np.generic] = centred.reshape(-1).view(np.dtype(item))
    table.flags.writeable = False
    return table
