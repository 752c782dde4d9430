"""The codec ``bfloat16``: the upper half of a float32, 16 bits a value, with float32's range."""

from __future__ import annotations

import numpy as np

from moshgrid.compression.codec import (
    ByteVector,
    CodecProperties,
    Float32Codec,
    FloatVector,
    saturate,
)
from moshgrid.compression.kernels import kernels_for, largest_magnitude, peak_of, pieces, refuse_infinite

__all__ = ["BFloat16"]

_LARGEST = 0x7F7F
_MAX = float(np.uint32(_LARGEST << 16).view(np.float32))


class BFloat16(Float32Codec):
    """Rounds to nearest even: relative error at most 2⁻⁸; saturates at ±3.3895e38."""

    name = "bfloat16"
    properties = CodecProperties(
        bits_per_value=16.0, relative_error=2.0**-8, absolute_error=2.0**-134, elementwise=True
    )

    def _length(self, count: int) -> int:
        return 2 * count

    def _write(self, values: FloatVector, data: ByteVector) -> int:
        kernels, saturated = kernels_for(values.size), 0
        for piece, halves in zip(pieces(values), pieces(data.view("<u2")), strict=True):
            kernels.to_bfloat16(piece, halves)
            if largest_magnitude(halves) >= _LARGEST:
                # Something is, or was rounded to, the largest value or beyond: rare, and looked at closely.
                clipped, count = saturate(piece, peak_of(piece), _MAX)
                kernels.to_bfloat16(clipped, halves)
                saturated += count
        return saturated

    def _read(self, data: ByteVector, out: FloatVector) -> None:
        kernels = kernels_for(out.size)
        for piece, halves in zip(pieces(out), pieces(data.view("<u2")), strict=True):
            refuse_infinite(self.name, halves, _LARGEST)
            kernels.from_bfloat16(halves, piece)

    def _look_over(self, data: ByteVector, room: FloatVector) -> None:
        refuse_infinite(self.name, data.view("<u2"), _LARGEST)
