"""The codec ``uniform8``: 256 equal buckets over mean ± 3 standard deviations, as hivemind's.

Here for comparison: outliers beyond three deviations share the outermost buckets.
"""

from __future__ import annotations

import math

import numpy as np

from moshgrid.compression.codebook import CODES, CodebookCodec, tiles
from moshgrid.compression.codec import ByteVector, FloatVector

__all__ = ["Uniform8"]

_DEVIATIONS = 6.0
_SMALLEST = 2.0**-120


class Uniform8(CodebookCodec):
    """8 bits a value and a codebook of 1 KiB a part."""

    name = "uniform8"

    def _choose(self, values: FloatVector, codes: ByteVector) -> None:
        mean = _sum(values) / values.size
        centre = np.float32(mean)
        squares = sum(_sum(np.square(tile - centre)) for tile in tiles(values))
        width = _DEVIATIONS * math.sqrt(squares / max(values.size - 1, 1)) / CODES
        factor = np.float32(1 / width if width > _SMALLEST else 0)
        for tile, chosen in zip(tiles(values), tiles(codes), strict=True):
            scaled = tile - centre
            scaled *= factor
            np.rint(scaled, out=scaled)
            scaled += CODES // 2
            np.clip(scaled, 0, CODES - 1, out=scaled)
            chosen[...] = scaled


def _sum(values: FloatVector) -> float:
    """Added from first to last, which is the same everywhere; numpy's sum may add in any order."""
    return sum(float(np.cumsum(tile, dtype=np.float64)[-1]) for tile in tiles(values))
