"""The caller's arrays read and written as one flat vector, without a copy where memory allows it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["FlatArrays", "Vector"]

Vector = npt.NDArray[np.floating[Any]]

_CHECKED_AT_ONCE = 1 << 18


class FlatArrays:
    """``arrays`` of any shapes and float dtypes, one after the other, as ``elements`` values of ``dtype``."""

    def __init__(self, arrays: Sequence[npt.NDArray[Any]], dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self._arrays = list(arrays)
        self._starts: list[int] = []
        self.elements = 0
        for array in arrays:
            self._starts.append(self.elements)
            self.elements += array.size

    def read(self, start: int, stop: int) -> Vector:
        """Elements ``start`` to ``stop``, contiguous; a view when they lie so in one array of ``dtype``."""
        view = self.window(start, stop)
        if view is not None:
            return view
        out = np.empty(stop - start, self.dtype)
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused as such
            for array, begin, end, at in self._pieces(start, stop):
                out[at : at + end - begin] = _run(array, begin, end)
        return out

    def window(self, start: int, stop: int) -> Vector | None:
        """A writable view of those elements, if there can be one."""
        index = bisect_right(self._starts, start) - 1
        while index + 1 < len(self._arrays) and not self._arrays[index].size:
            index += 1
        array, begin = self._arrays[index], start - self._starts[index]
        if (
            array.dtype != self.dtype
            or not array.flags.c_contiguous
            or not array.flags.writeable
            or not array.flags.aligned
            or begin + stop - start > array.size
        ):
            return None
        return array.reshape(-1)[begin : begin + stop - start]

    def write(self, start: int, values: Vector) -> None:
        """Replaces the elements from ``start`` on; they take on the dtype of their array."""
        for array, begin, end, at in self._pieces(start, start + len(values)):
            source = values[at : at + end - begin]
            if array.flags.c_contiguous:
                array.reshape(-1)[begin:end] = source
            else:
                array.flat[begin:end] = source

    def is_finite(self) -> bool:
        """True when every value is, as ``dtype``."""
        return all(
            bool(np.isfinite(self.read(start, min(start + _CHECKED_AT_ONCE, self.elements))).all())
            for start in range(0, self.elements, _CHECKED_AT_ONCE)
        )

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[npt.NDArray[Any], int, int, int]]:
        """(array, its first and last element wanted, where the first goes) from ``start`` to ``stop``."""
        index = max(0, bisect_right(self._starts, start) - 1)
        at = start
        while at < stop:
            array, offset = self._arrays[index], at - self._starts[index]
            count = min(array.size - offset, stop - at)
            if count > 0:
                yield array, offset, offset + count, at - start
                at += count
            index += 1


def _run(array: npt.NDArray[Any], begin: int, end: int) -> npt.NDArray[Any]:
    """Elements of one array in C order."""
    if array.flags.c_contiguous:
        return array.reshape(-1)[begin:end]
    return array.flat[begin:end]
