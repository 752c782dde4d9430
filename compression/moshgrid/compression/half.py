"""The codec ``float16``: IEEE half precision, 16 bits a value, saturating at ±65504."""

from __future__ import annotations

from moshgrid.compression.codec import (
    MAX_VALUE,
    ByteVector,
    CodecProperties,
    Float32Codec,
    FloatVector,
    saturate,
)
from moshgrid.compression.kernels import kernels_for, largest_magnitude, peak_of, pieces, refuse_infinite

__all__ = ["Float16"]

_LARGEST = 0x7BFF  # the bits of 65504


class Float16(Float32Codec):
    """Rounds to nearest even: relative error at most 2⁻¹¹ for |x| in 6.1e-5 … 65504, absolute 2⁻²⁵ below."""

    name = "float16"
    properties = CodecProperties(
        bits_per_value=16.0, relative_error=2.0**-11, absolute_error=2.0**-25, elementwise=True
    )

    def _length(self, count: int) -> int:
        return 2 * count

    def _write(self, values: FloatVector, data: ByteVector) -> int:
        kernels, saturated = kernels_for(values.size), 0
        for piece, halves in zip(pieces(values), pieces(data.view("<u2")), strict=True):
            kernels.to_float16(piece, halves)
            if largest_magnitude(halves) >= _LARGEST:
                # Something is, or was rounded to, the largest value or beyond: rare, and looked at closely.
                clipped, count = saturate(piece, peak_of(piece), MAX_VALUE)
                kernels.to_float16(clipped, halves)
                saturated += count
        return saturated

    def _read(self, data: ByteVector, out: FloatVector) -> None:
        kernels = kernels_for(out.size)
        for piece, halves in zip(pieces(out), pieces(data.view("<u2")), strict=True):
            refuse_infinite(self.name, halves, _LARGEST)
            kernels.from_float16(halves, piece)

    def _look_over(self, data: ByteVector, room: FloatVector) -> None:
        refuse_infinite(self.name, data.view("<u2"), _LARGEST)
