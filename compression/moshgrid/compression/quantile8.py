"""The codec ``quantile8``: 256 buckets that hold equally many values, as hivemind's.

Here for comparison: the outermost buckets of a heavy tail are wide, and finding the borders is slow.
"""

from __future__ import annotations

import numpy as np

from moshgrid.compression.codebook import CODES, CodebookCodec, tiles
from moshgrid.compression.codec import ByteVector, FloatVector

__all__ = ["Quantile8"]


class Quantile8(CodebookCodec):
    """8 bits a value and a codebook of 1 KiB a part."""

    name = "quantile8"

    def _choose(self, values: FloatVector, codes: ByteVector) -> None:
        ordered = np.sort(values)
        borders = ordered[np.arange(1, CODES) * values.size // CODES]
        for tile, chosen in zip(tiles(values), tiles(codes), strict=True):
            chosen[...] = np.searchsorted(borders, tile, side="right")
