"""The codec ``int4``: blocks of 128 share a float16 scale, two values to a byte; 4.125 bits a value."""

from __future__ import annotations

import numpy as np

from moshgrid.compression.block_scales import BLOCK, choose_scales, count_blocks, steps_of
from moshgrid.compression.codec import (
    MAX_VALUE,
    ByteVector,
    CodecError,
    CodecProperties,
    Float32Codec,
    FloatVector,
    saturate,
)
from moshgrid.compression.kernels import kernels_for

__all__ = ["Int4"]

_LEVELS = 7
_ZERO = 8


class Int4(Float32Codec):
    """Off by at most half a step, 1/14 of the block's largest value (1/7 where that is below 4.5e-7).

    For differences and gradients; parameters themselves lose too much.
    """

    name = "int4"
    properties = CodecProperties(
        bits_per_value=4 + 16 / BLOCK,
        peak_error=0.5005 / _LEVELS,
        absolute_error=0.5005 / _LEVELS * 8 * 2.0**-24,
        block=BLOCK,
    )

    def _length(self, count: int) -> int:
        return 2 * count_blocks(count) + -(-count // 2)

    def _write(self, values: FloatVector, data: ByteVector) -> int:
        kernels = kernels_for(values.size)
        whole, blocks = values.size // BLOCK, count_blocks(values.size)
        peaks = np.empty(blocks, np.float32)
        kernels.block_peaks(values[: whole * BLOCK].reshape(-1, BLOCK), peaks[:whole])
        peaks[whole:] = np.abs(values[whole * BLOCK :]).max(initial=0.0)
        values, saturated = saturate(values, float(peaks.max(initial=0.0)), MAX_VALUE)
        if saturated:
            np.minimum(peaks, np.float32(MAX_VALUE), out=peaks)
        scales, pairs = data[: 2 * blocks].view("<u2"), data[2 * blocks :]
        factors = choose_scales(peaks, _LEVELS, scales)
        body, rest = values[: whole * BLOCK].reshape(-1, BLOCK), values[whole * BLOCK :]
        half = whole * BLOCK // 2
        kernels.to_nibbles(body, factors[:whole], pairs[:half].reshape(-1, BLOCK // 2))
        if rest.size:
            nibbles = np.zeros(2 * (pairs.size - half), np.uint8)
            nibbles[: rest.size] = np.rint(rest * factors[-1]) + _ZERO
            pairs[half:] = nibbles[0::2] | nibbles[1::2] << 4
        return saturated

    def _read(self, data: ByteVector, out: FloatVector) -> None:
        whole, blocks = out.size // BLOCK, count_blocks(out.size)
        steps = steps_of(data[: 2 * blocks].view("<u2"), _LEVELS)
        pairs, half = data[2 * blocks :], whole * BLOCK // 2
        if out.size % 2 and pairs[-1] >> 4:
            raise CodecError("the half byte after the last int4 value is not 0")
        body = pairs[:half].reshape(-1, BLOCK // 2)
        kernels_for(out.size).from_nibbles(body, steps[:whole], out[: whole * BLOCK].reshape(-1, BLOCK))
        rest = out[whole * BLOCK :]
        if rest.size:
            tail = np.stack((pairs[half:] & 15, pairs[half:] >> 4), axis=1).reshape(-1)[: rest.size]
            np.multiply(tail - np.float32(_ZERO), steps[-1], out=rest)
