"""The kernels in numpy, tile by tile so that intermediate values stay in the processor's cache.

``blocks`` are (n, 128) float32 arrays; arrays to read may be read-only, arrays to fill are not.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "block_peaks",
    "from_bfloat16",
    "from_bytes",
    "from_float16",
    "from_nibbles",
    "to_bfloat16",
    "to_bytes",
    "to_float16",
    "to_nibbles",
]

_ROWS = 512
_BLOCK = 128
_TILE = 16384

Array = npt.NDArray[Any]


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.floats = np.empty((_ROWS, _BLOCK), np.float32)
        self.bytes = np.empty((_ROWS, _BLOCK), np.uint8)
        self.pairs = np.empty((_ROWS, _BLOCK // 2), np.uint16)


_scratch = _Scratch()


def to_float16(values: Array, out: Array) -> None:
    """Rounds to nearest even, to infinity where that is beyond the range."""
    with np.errstate(over="ignore", invalid="ignore"):  # found out afterwards
        out.view(np.float16)[...] = values


def from_float16(halves: Array, out: Array) -> None:
    """Exact."""
    out[...] = halves.view(np.float16)


def to_bfloat16(values: Array, out: Array) -> None:
    """Rounds to nearest even, to infinity where that is beyond the range."""
    for at in range(0, len(values), _TILE):
        bits = values[at : at + _TILE].view(np.uint32)
        odd = bits >> 16
        odd &= 1
        odd += 0x7FFF
        odd += bits
        odd >>= 16
        out[at : at + _TILE] = odd


def from_bfloat16(halves: Array, out: Array) -> None:
    """Exact."""
    np.left_shift(halves, 16, out=out.view(np.uint32), dtype=np.uint32)


def block_peaks(blocks: Array, out: Array) -> None:
    """The largest absolute value of each block; NaN for a block with a NaN."""
    for at in range(0, len(blocks), _ROWS):
        tile = blocks[at : at + _ROWS]
        np.abs(tile, out=_scratch.floats[: len(tile)]).max(axis=1, out=out[at : at + _ROWS])


def to_bytes(blocks: Array, inverse: Array, out: Array) -> None:
    """round(block × inverse), which lies in −127 … 127."""
    for at in range(0, len(blocks), _ROWS):
        out[at : at + _ROWS] = _rounded(blocks[at : at + _ROWS], inverse[at : at + _ROWS])


def from_bytes(codes: Array, steps: Array, out: Array) -> None:
    """code × step of its block."""
    for at in range(0, len(codes), _ROWS):
        values = out[at : at + _ROWS]
        values[...] = codes[at : at + _ROWS]
        values *= steps[at : at + _ROWS, None]


def to_nibbles(blocks: Array, inverse: Array, out: Array) -> None:
    """round(block × inverse) + 8, in 1 … 15, two to a byte, the first in the low half; (n, 64)."""
    for at in range(0, len(blocks), _ROWS):
        rounded = _rounded(blocks[at : at + _ROWS], inverse[at : at + _ROWS])
        rounded += 8
        nibbles = _scratch.bytes[: len(rounded)]
        nibbles[...] = rounded
        pairs = nibbles.view("<u2")
        np.right_shift(pairs, 4, out=_scratch.pairs[: len(rounded)])
        pairs |= _scratch.pairs[: len(rounded)]
        out[at : at + _ROWS] = pairs


def from_nibbles(pairs: Array, steps: Array, out: Array) -> None:
    """(nibble − 8) × step of its block."""
    for at in range(0, len(pairs), _ROWS):
        tile = pairs[at : at + _ROWS]
        nibbles = _scratch.bytes[: len(tile)]
        np.bitwise_and(tile, 15, out=nibbles[:, 0::2])
        np.right_shift(tile, 4, out=nibbles[:, 1::2])
        values = out[at : at + _ROWS]
        np.subtract(nibbles, np.float32(8), out=values)
        values *= steps[at : at + _ROWS, None]


def _rounded(blocks: Array, inverse: Array) -> Array:
    scaled = np.multiply(blocks, inverse[:, None], out=_scratch.floats[: len(blocks)])
    return np.rint(scaled, out=scaled)
