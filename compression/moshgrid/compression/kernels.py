"""Kernels: conversions to 16-bit floats, by torch when torch is loaded already, else by numpy.

Both give the same bits: they round once, as IEEE 754 says. Importing torch takes seconds and 150 MB, so it is
never loaded from here. What is multiplied and rounded to integers is numpy's alone: there torch wins nothing
on one core, and its calls from a worker thread hold up the network's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from moshgrid.compression import numpy_kernels
from moshgrid.compression.codec import CodecError, FloatVector

__all__ = ["BLOCK", "Kernels", "kernels_for", "largest_magnitude", "peak_of", "pieces", "refuse_infinite"]

BLOCK = 128
"""Elements that share a scale in the block codecs."""

_PIECE = 262144
_TORCH_FROM = 1024  # below this many elements the calls into torch cost more than they save

Scalar = TypeVar("Scalar", bound=np.generic)
Halves = npt.NDArray[np.uint16]


class Kernels(Protocol):
    """Conversions of float32 vectors; arrays to read may be read-only, arrays to fill are not."""

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
