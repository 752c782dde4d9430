"""The codec ``none``: little-endian IEEE floats as they are, float32 or float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from moshgrid.compression.codec import (
    Buffer,
    ByteVector,
    CodecError,
    CodecProperties,
    Float32Codec,
    FloatVector,
    saturate,
)
from moshgrid.compression.kernels import peak_of

__all__ = ["Plain"]


class Plain(Float32Codec):
    """Nothing is lost; 32 (or 64) bits a value."""

    name = "none"
    dtypes = ("float32", "float64")
    properties = CodecProperties(bits_per_value=32.0, elementwise=True, additive=True)

    def encoded_bytes(self, count: int, dtype: np.dtype[Any]) -> int:
        return super().encoded_bytes(count, dtype) * dtype.itemsize

    def _length(self, count: int) -> int:
        return count

    def _write(self, values: FloatVector, data: ByteVector) -> int:
        saturate(values, peak_of(values), math.inf)
        data.view(_wire(values.dtype))[...] = values
        return 0

    def decode(self, data: Buffer, count: int, dtype: np.dtype[Any]) -> FloatVector:
        self._check_length(data, count, dtype)
        values = np.frombuffer(data, _wire(dtype), count).astype(dtype, copy=False)
        if not math.isfinite(peak_of(values)):
            raise CodecError("values that are not finite are refused")
        return values

    def decode_into(self, data: Buffer, out: FloatVector) -> None:
        self._check(out)
        out[...] = self.decode(data, out.size, out.dtype)

    def _look_over(self, data: ByteVector, room: FloatVector) -> None:
        self.decode(data.data, room.size, room.dtype)


def _wire(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype.newbyteorder("<")
