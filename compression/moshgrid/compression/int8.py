"""The codec ``int8``: blocks of 128 share a float16 scale, a signed byte a value; 8.125 bits."""

from __future__ import annotations

import numpy as np

from moshgrid.compression.block_scales import BLOCK, choose_scales, count_blocks, steps_of
from moshgrid.compression.codec import (
    MAX_VALUE,
    ByteVector,
    CodecProperties,
    Float32Codec,
    FloatVector,
    saturate,
)
from moshgrid.compression.kernels import kernels_for

__all__ = ["Int8"]

_LEVELS = 127


class Int8(Float32Codec):
    """Off by at most half a step, 1/254 of the block's largest value (1/127 where that is below 7.6e-6)."""

    name = "int8"
    properties = CodecProperties(
        bits_per_value=8 + 16 / BLOCK,
        peak_error=0.5005 / _LEVELS,
        absolute_error=0.5005 / _LEVELS * 128 * 2.0**-24,
        block=BLOCK,
    )

    def _length(self, count: int) -> int:
        return 2 * count_blocks(count) + count

    def _write(self, values: FloatVector, data: ByteVector) -> int:
        kernels = kernels_for(values.size)
        whole, blocks = values.size // BLOCK, count_blocks(values.size)
        peaks = np.empty(blocks, np.float32)
        body, rest = values[: whole * BLOCK].reshape(-1, BLOCK), values[whole * BLOCK :]
        kernels.block_peaks(body, peaks[:whole])
        peaks[whole:] = np.abs(rest).max(initial=0.0)
        clipped, saturated = saturate(values, float(peaks.max(initial=0.0)), MAX_VALUE)
        if saturated:
            body, rest = clipped[: whole * BLOCK].reshape(-1, BLOCK), clipped[whole * BLOCK :]
            np.minimum(peaks, np.float32(MAX_VALUE), out=peaks)
        scales, codes = data[: 2 * blocks].view("<u2"), data[2 * blocks :].view(np.int8)
        factors = choose_scales(peaks, _LEVELS, scales)
        kernels.to_bytes(body, factors[:whole], codes[: whole * BLOCK].reshape(-1, BLOCK))
        if rest.size:
            codes[whole * BLOCK :] = np.rint(rest * factors[-1])
        return saturated

    def _read(self, data: ByteVector, out: FloatVector) -> None:
        whole, blocks = out.size // BLOCK, count_blocks(out.size)
        steps = steps_of(data[: 2 * blocks].view("<u2"), _LEVELS)
        codes = data[2 * blocks :].view(np.int8)
        body = codes[: whole * BLOCK].reshape(-1, BLOCK)
        kernels_for(out.size).from_bytes(body, steps[:whole], out[: whole * BLOCK].reshape(-1, BLOCK))
        if out.size > whole * BLOCK:
            np.multiply(codes[whole * BLOCK :], steps[-1], out=out[whole * BLOCK :])
