"""The codec ``none``: little-endian IEEE floats as they are, float32 or float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from moshgrid.compression.codec import CodecError, CodecProperties, Encoded, FloatVector

__all__ = ["Plain"]


class Plain:
    """Nothing is lost; 32 (or 64) bits a value."""

    name = "none"
    dtypes = ("float32", "float64")
    properties = CodecProperties(bits_per_value=32.0, relative_error=0.0, additive=True, deterministic=True)

    def encoded_bytes(self, count: int, dtype: np.dtype[Any]) -> int:
        return count * _wire(dtype).itemsize

    def encode(self, values: FloatVector) -> Encoded:
        return Encoded(values.astype(_wire(values.dtype), copy=False).tobytes(), 0)

    def decode(self, data: bytes | memoryview, count: int, dtype: np.dtype[Any]) -> FloatVector:
        wire = _wire(dtype)
        if len(data) != count * wire.itemsize:
            raise CodecError(f"{len(data)} bytes cannot be {count} values of {dtype}")
        return np.frombuffer(data, wire, count).astype(dtype, copy=False)


def _wire(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.name not in Plain.dtypes:
        raise CodecError(f"the codec none takes float32 or float64, not {dtype}")
    return dtype.newbyteorder("<")
