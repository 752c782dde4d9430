"""Scales of blocks as float16: how large a block is, so that no value is off by more than half a step.

The scale of a block is its largest absolute value, rounded to the nearest float16. Where float16 grows
too coarse for that (below ``levels`` × 2⁻²⁴) it is the next power of two, so that encoding what was
decoded gives the same bytes again. A block whose every code would be 0 has the scale 0.
"""

from __future__ import annotations

import numpy as np

from moshgrid.compression.codec import CodecError, FloatVector
from moshgrid.compression.kernels import BLOCK, Halves

__all__ = ["BLOCK", "choose_scales", "count_blocks", "steps_of"]

_UNIT = 2.0**-24  # the smallest float16
_SLACK = np.float32(1 - 2.0**-20)  # a decoded power of two may come back a float32 step larger
_NOT_FINITE = 0x7C00  # bits from here on: infinite, NaN, or negative


def count_blocks(count: int) -> int:
    """How many blocks ``count`` elements make; the last may be shorter."""
    return -(-count // BLOCK)


def choose_scales(peaks: FloatVector, levels: int, out: Halves) -> FloatVector:
    """Fills ``out`` with a float16 per peak (≤ 65504); returns what to multiply values with, per block.

    A value v of the block has the code round(v × factor), within ±``levels``.
    """
    scales = peaks.astype(np.float16).astype(np.float32)
    small = peaks < np.float32((levels + 0.5) * _UNIT)
    if small.any():
        mantissa, exponent = np.frexp(peaks[small] * np.float32(1 / _UNIT) * _SLACK)
        exponent -= mantissa == 0.5
        power = np.ldexp(np.float32(_UNIT), np.maximum(exponent, 0))
        power[np.rint(peaks[small] * (np.float32(levels) / power)) == 0] = 0
        scales[small] = power
    out[...] = scales.astype("<f2").view("<u2")
    factors = np.zeros_like(scales)
    np.divide(np.float32(levels), scales, out=factors, where=scales > 0)
    return factors


def steps_of(scales: Halves, levels: int) -> FloatVector:
    """The value of one code, per block. Raises CodecError for scales that no encoder chooses."""
    if (scales >= _NOT_FINITE).any():
        raise CodecError("a block's scale is negative or not finite")
    return scales.view(np.float16).astype(np.float32) / np.float32(levels)
