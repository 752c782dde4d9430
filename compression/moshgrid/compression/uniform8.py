"""The codec ``uniform8``: 256 equal buckets over mean ± 3 standard deviations, as hivemind's.

Here for comparison: outliers beyond three deviations share the outermost buckets.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from moshgrid.compression.codebook import CODES, CodebookCodec
from moshgrid.compression.codec import FloatVector

__all__ = ["Uniform8"]

_DEVIATIONS = 6.0


class Uniform8(CodebookCodec):
    """8 bits a value and a codebook of 1 KiB a part."""

    name = "uniform8"

    def _buckets(self, values: FloatVector) -> npt.NDArray[np.intp]:
        # Sums that run from first to last are the same everywhere; numpy's sum may add in any order.
        mean = np.cumsum(values, dtype=np.float64)[-1] / values.size
        centred = values - mean
        variance = np.cumsum(centred * centred)[-1] / max(values.size - 1, 1)
        width = _DEVIATIONS * math.sqrt(variance) / CODES
        if width == 0:
            return np.full(values.size, CODES // 2)
        codes = np.rint(centred / width) + CODES // 2
        buckets: npt.NDArray[np.intp] = np.clip(codes, 0, CODES - 1).astype(np.intp)
        return buckets
