"""The codec ``bfloat16``: the upper half of a float32, 16 bits a value, with float32's range."""

from __future__ import annotations

import numpy as np

from moshgrid.compression.codec import (
    ByteVector,
    CodecError,
    CodecProperties,
    Float32Codec,
    FloatVector,
    saturate,
)
from moshgrid.compression.kernels import kernels_for, largest_magnitude, peak_of

__all__ = ["BFloat16"]

_LARGEST = 0x7F7F
_MAX = float(np.uint32(_LARGEST << 16).view(np.float32))


class BFloat16(Float32Codec):
    """Rounds to nearest even: relative error at most 2⁻⁸; saturates at ±3.3895e38."""

    name = "bfloat16"
    properties = CodecProperties(bits_per_value=16.0, relative_error=2.0**-8, absolute_error=2.0**-134)

    def _length(self, count: int) -> int:
        return 2 * count

    def _write(self, values: FloatVector, data: ByteVector) -> int:
        kernels, halves = kernels_for(values.size), data.view("<u2")
        kernels.to_bfloat16(values, halves)
        if largest_magnitude(halves) < _LARGEST:
            return 0
        # Something is, or was rounded to, the largest value or beyond: rare, and looked at closely.
        values, saturated = saturate(values, peak_of(values), _MAX)
        kernels.to_bfloat16(values, halves)
        return saturated

    def _read(self, data: ByteVector, out: FloatVector) -> None:
        halves = data.view("<u2")
        if largest_magnitude(halves) > _LARGEST:
            raise CodecError("bfloat16 values that are not finite are refused")
        kernels_for(out.size).from_bfloat16(halves, out)
