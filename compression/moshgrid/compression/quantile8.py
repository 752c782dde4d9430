"""The codec ``quantile8``: 256 buckets that hold equally many values, as hivemind's.

Here for comparison: the outermost buckets of a heavy tail are wide, and finding the borders is slow.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moshgrid.compression.codebook import CODES, CodebookCodec
from moshgrid.compression.codec import FloatVector

__all__ = ["Quantile8"]


class Quantile8(CodebookCodec):
    """8 bits a value and a codebook of 1 KiB a part."""

    name = "quantile8"

    def _buckets(self, values: FloatVector) -> npt.NDArray[np.intp]:
        ordered = np.sort(values)
        borders = ordered[np.arange(1, CODES) * values.size // CODES]
        return np.searchsorted(borders, values, side="right")
