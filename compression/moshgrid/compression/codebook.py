"""A codebook of 256 float32 values and a byte per value: what ``uniform8`` and ``quantile8`` share."""

from __future__ import annotations

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

__all__ = ["CODES", "CodebookCodec"]

CODES = 256
_BOOK_BYTES = 4 * CODES


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
        codes = self._buckets(values)
        counts = np.bincount(codes, minlength=CODES)
        # bincount adds one after the other in float64: the same sums everywhere.
        sums = np.bincount(codes, values, CODES)
        book = np.divide(sums, counts, out=np.zeros(CODES), where=counts > 0)
        data[:_BOOK_BYTES] = book.astype("<f4").view(np.uint8)
        data[_BOOK_BYTES:] = codes
        return saturated

    def _read(self, data: ByteVector, out: FloatVector) -> None:
        if not out.size:
            return
        book = data[:_BOOK_BYTES].view("<f4")
        if not peak_of(book) <= MAX_VALUE:
            raise CodecError(f"a {self.name} codebook holds values beyond ±{MAX_VALUE:.0f} or not finite")
        np.take(book, data[_BOOK_BYTES:], out=out, mode="clip")

    def _buckets(self, values: FloatVector) -> npt.NDArray[np.intp]:
        """The bucket 0 … 255 of every value."""
        raise NotImplementedError
