"""Kernels: the arithmetic of the fast codecs, by torch when torch is loaded already, else by numpy.

Both give the same bits: they use single float32 operations of IEEE 754 and nothing that sums.
Importing torch takes seconds and 150 MB, so it is never loaded from here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from moshgrid.compression import numpy_kernels
from moshgrid.compression.codec import ByteVector, CodecError, FloatVector

__all__ = ["BLOCK", "Kernels", "kernels_for", "largest_magnitude", "peak_of", "pieces", "refuse_infinite"]

BLOCK = 128
"""Elements that share a scale in the block codecs."""

_PIECE = 262144
_TORCH_FROM = 1024  # below this many elements the calls into torch cost more than they save

Scalar = TypeVar("Scalar", bound=np.generic)
Halves = npt.NDArray[np.uint16]


class Kernels(Protocol):
    """``blocks`` are (n, 128) float32 arrays; arrays to read may be read-only, arrays to fill are not."""

    def to_float16(self, values: FloatVector, out: Halves) -> None:
        """Rounds to nearest even, to infinity where that is beyond the range."""
        ...

    def from_float16(self, halves: Halves, out: FloatVector) -> None:
        """Exact."""
        ...

    def to_bfloat16(self, values: FloatVector, out: Halves) -> None:
        """Rounds to nearest even, to infinity where that is beyond the range."""
        ...

    def from_bfloat16(self, halves: Halves, out: FloatVector) -> None:
        """Exact."""
        ...

    def block_peaks(self, blocks: FloatVector, out: FloatVector) -> None:
        """The largest absolute value of each block; NaN for a block with a NaN."""
        ...

    def to_bytes(self, blocks: FloatVector, inverse: FloatVector, out: npt.NDArray[np.int8]) -> None:
        """round(block × inverse), which lies in −127 … 127."""
        ...

    def from_bytes(self, codes: npt.NDArray[np.int8], steps: FloatVector, out: FloatVector) -> None:
        """code × step of its block."""
        ...

    def to_nibbles(self, blocks: FloatVector, inverse: FloatVector, out: ByteVector) -> None:
        """round(block × inverse) + 8, in 1 … 15, two to a byte, the first in the low half; (n, 64)."""
        ...

    def from_nibbles(self, pairs: ByteVector, steps: FloatVector, out: FloatVector) -> None:
        """(nibble − 8) × step of its block."""
        ...


def kernels_for(count: int) -> Kernels:
    """The kernels to use for ``count`` elements."""
    if count >= _TORCH_FROM and "torch" in sys.modules:
        from moshgrid.compression import torch_kernels

        return torch_kernels
    return numpy_kernels


def peak_of(values: FloatVector) -> float:
    """The largest absolute value; 0 for none, NaN when there is a NaN."""
    return max(-float(values.min()), float(values.max())) if values.size else 0.0


def largest_magnitude(halves: Halves) -> int:
    """The largest value of 16 bits without the sign bit; 0 for none."""
    if not halves.size:
        return 0
    # As signed numbers the largest is a positive value's, as unsigned ones it is a negative value's.
    return max(int(halves.view("<i2").max()), int(halves.max()) - 0x8000)


def refuse_infinite(name: str, halves: Halves, largest: int) -> None:
    """Raises CodecError when a 16-bit float's magnitude is beyond ``largest``, the last finite one's."""
    if largest_magnitude(halves) > largest:
        raise CodecError(f"{name} values that are not finite are refused")


def pieces(array: npt.NDArray[Scalar]) -> Iterator[npt.NDArray[Scalar]]:
    """Pieces of ``array`` that are in the processor's cache when they are looked at a second time."""
    return (array[at : at + _PIECE] for at in range(0, array.size, _PIECE))
