"""A codebook of 256 float32 values and a byte per value: what ``uniform8`` and ``quantile8`` share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from moshgrid.compression.codec import (
    MAX_VALUE,
    ByteVector,
    CodecError,
    CodecProperties,
    Float32Codec,
    FloatVector,
    saturate,
)
from moshgrid.compression.kernels import peak_of

__all__ = ["CODES", "CodebookCodec", "tiles"]

CODES = 256
_BOOK_BYTES = 4 * CODES
_TILE = 16384
_LOOKED_UP = 4096

Scalar = TypeVar("Scalar", bound=np.generic)


class CodebookCodec(Float32Codec):
    """Values fall into 256 buckets; what is decoded is the mean of the values in the bucket.

    How good that is depends on how the values are spread: the only bound is the range of the bucket.
    """

    properties = CodecProperties(bits_per_value=8.0, peak_error=2.0)

    def _length(self, count: int) -> int:
        return _BOOK_BYTES + count if count else 0

    def _write(self, values: FloatVector, data: ByteVector) -> int:
        if not values.size:
            return 0
        values, saturated = saturate(values, peak_of(values), MAX_VALUE)
        codes = data[_BOOK_BYTES:]
        self._choose(values, codes)
        counts, sums = np.zeros(CODES), np.zeros(CODES)
        for tile, chosen in zip(tiles(values), tiles(codes), strict=True):
            # bincount adds one after the other in float64: the same sums everywhere.
            buckets = chosen.astype(np.intp)
            counts += np.bincount(buckets, minlength=CODES)
            sums += np.bincount(buckets, tile, CODES)
        book = np.divide(sums, counts, out=np.zeros(CODES), where=counts > 0)
        data[:_BOOK_BYTES] = book.astype("<f4").view(np.uint8)
        return saturated

    def _read(self, data: ByteVector, out: FloatVector) -> None:
        if not out.size:
            return
        book = self._book(data)
        for at in range(0, out.size, _LOOKED_UP):  # an index takes eight bytes for as long as that lasts
            codes = data[_BOOK_BYTES + at : _BOOK_BYTES + at + _LOOKED_UP]
            np.take(book, codes, out=out[at : at + _LOOKED_UP], mode="clip")

    def _look_over(self, data: ByteVector, room: FloatVector) -> None:
        if room.size:
            self._book(data)

    def _book(self, data: ByteVector) -> FloatVector:
        book = data[:_BOOK_BYTES].view("<f4")
        if not peak_of(book) <= MAX_VALUE:
            raise CodecError(f"a {self.name} codebook holds values beyond ±{MAX_VALUE:.0f} or not finite")
        return book

    def _choose(self, values: FloatVector, codes: ByteVector) -> None:
        """Fills ``codes`` with the bucket of every value."""
        raise NotImplementedError


def tiles(array: npt.NDArray[Scalar]) -> Iterator[npt.NDArray[Scalar]]:
    """Pieces of ``array`` that fit into the processor's cache with what is computed of them."""
    return (array[at : at + _TILE] for at in range(0, array.size, _TILE))
