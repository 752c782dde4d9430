"""The codec ``float16``: IEEE half precision, 16 bits a value, saturating at ±65504.

torch's kernels are used when torch is loaded already (about ten times numpy's speed); the bytes are
the same, since both round to nearest even.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from moshgrid.compression.codec import CodecError, CodecProperties, Encoded, FloatVector

__all__ = ["Float16"]

_MAX = 65504.0
_WIRE = np.dtype("<f2")
_TORCH_FROM = 1024  # below this many elements the call into torch costs more than it saves


class Float16:
    """Relative error at most 2⁻¹¹ for |x| in 6.1e-5 … 65504, absolute 2⁻²⁵ below."""

    name = "float16"
    dtypes = ("float32",)
    properties = CodecProperties(
        bits_per_value=16.0, relative_error=2.0**-11, additive=False, deterministic=True
    )

    def encoded_bytes(self, count: int, dtype: np.dtype[Any]) -> int:
        _check(dtype)
        return 2 * count

    def encode(self, values: FloatVector) -> Encoded:
        _check(values.dtype)
        # One pass finds out whether the rare slow path (clip a copy, count) is needed at all.
        peak = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))
        saturated = 0
        if peak > _MAX:
            saturated = int(np.count_nonzero(np.abs(values) > _MAX))
            values = np.clip(values, -_MAX, _MAX)
        torch = sys.modules.get("torch")
        if torch is not None and values.size >= _TORCH_FROM and values.flags.writeable:
            half = torch.from_numpy(values).to(torch.float16).numpy()
        else:
            half = values.astype(_WIRE)
        return Encoded(half.tobytes(), saturated)

    def decode(self, data: bytes | memoryview, count: int, dtype: np.dtype[Any]) -> FloatVector:
        _check(dtype)
        if len(data) != 2 * count:
            raise CodecError(f"{len(data)} bytes cannot be {count} float16 values")
        half = np.frombuffer(data, _WIRE, count)
        torch = sys.modules.get("torch")
        if torch is None or count < _TORCH_FROM:
            return half.astype(np.float32)
        decoded = np.empty(count, np.float32)
        # torch warns about read-only memory, which is only read here; a numpy view cannot say so.
        writable = np.frombuffer(bytearray(data), _WIRE, count) if not half.flags.writeable else half
        torch.from_numpy(decoded).copy_(torch.from_numpy(writable))
        return decoded


def _check(dtype: np.dtype[Any]) -> None:
    if dtype.name not in Float16.dtypes:
        raise CodecError(f"the codec float16 takes float32, not {dtype}")
