"""Bit planes: codes of 2 to 8 bits, packed without gaps as planes of 4, 2 and 1 bits.

A width is split into the powers of two it is made of (5 = 4 + 1), the low bits first, and each plane is
packed on its own: the first value in the lowest bits of a byte.
"""

from __future__ import annotations

import numpy as np

from moshgrid.compression.codec import ByteVector

__all__ = ["pack", "packed_bytes", "unpack"]


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of ``count`` codes, a multiple of 8."""
    return count * bits // 8


def pack(codes: ByteVector, bits: int, out: ByteVector) -> None:
    """Packs codes below 2^``bits``, a multiple of 8 in number, into ``out``."""
    at = shift = 0
    for width in _planes(bits):
        plane = codes >> shift if shift else codes
        if width < 8:
            plane = plane & ((1 << width) - 1)
        per_byte, merged = 8 // width, plane[0 :: 8 // width].copy()
        for index in range(1, per_byte):
            merged |= plane[index::per_byte] << (index * width)
        out[at : at + merged.size] = merged
        at, shift = at + merged.size, shift + width


def unpack(data: ByteVector, bits: int, count: int) -> ByteVector:
    """The ``count`` codes that ``pack`` was given."""
    codes = np.zeros(count, np.uint8)
    at = shift = 0
    for width in _planes(bits):
        per_byte = 8 // width
        packed = data[at : at + count // per_byte]
        for index in range(per_byte):
            part = packed >> (index * width) if index else packed
            if width < 8:
                part = part & ((1 << width) - 1)
            codes[index::per_byte] |= part << shift
        at, shift = at + packed.size, shift + width
    return codes


def _planes(bits: int) -> list[int]:
    return [width for width in (8, 4, 2, 1) if bits & width]
