"""Schema: the shapes and dtypes that all members of a run share, and the one flat vector they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from moshgrid.averaging.tensors import (
    add_difference,
    check_writable,
    clone,
    describe,
)
from moshgrid.p2p.errors import ConfigurationError, SchemaMismatch

__all__ = ["Schema"]


@dataclass(frozen=True, slots=True)
class Schema:
    """Shapes (tuples of ints) and dtype names, in order."""

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]

    @classmethod
    def of(cls, arrays: Sequence[Any]) -> Schema:
        """The schema of ``arrays``. Raises ConfigurationError when empty or not floating point."""
        if isinstance(arrays, np.ndarray) or not isinstance(arrays, Sequence) or not arrays:
            raise ConfigurationError("pass a list with at least one numpy array or torch tensor")
        shapes, dtypes = [], []
        for index, array in enumerate(arrays):
            try:
                shape, dtype = describe(array)
            except ConfigurationError as error:
                raise ConfigurationError(f"array {index}: {error}") from None
            shapes.append(shape)
            dtypes.append(dtype)
        return cls(tuple(shapes), tuple(dtypes))

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many elements each array has."""
        return tuple(prod(shape) for shape in self.shapes)

    @property
    def elements(self) -> int:
        """The length of the flat vector."""
        return sum(self.sizes)

    @property
    def digest(self) -> bytes:
        """32 bytes that differ when any shape or dtype differs."""
        text = ";".join(
            f"{dtype}{list(shape)}" for shape, dtype in zip(self.shapes, self.dtypes, strict=True)
        )
        return blake3(text.encode()).digest()

    def outline(self, most: int) -> str:
        """The first arrays in words, one after a ``;``, as many as ``most`` characters hold."""
        text = ""
        for index in range(len(self.shapes)):
            longer = f"{text};{_describe(self, index)}" if index else _describe(self, 0)
            if len(longer) > most:
                break
            text = longer
        return text

    def wire_dtype(self, codec_dtypes: Sequence[str]) -> np.dtype[Any]:
        """The dtype of the flat vector: float64 if any array is and the codec takes it, else float32."""
        wants = "float64" if {"float64", "longdouble"} & set(self.dtypes) else "float32"
        return np.dtype(wants if wants in codec_dtypes else "float32")

    def check(self, arrays: Sequence[Any]) -> None:
        """Raises SchemaMismatch with a line per difference, ConfigurationError for a read-only array."""
        other = Schema.of(arrays)
        if other == self:
            for index, array in enumerate(arrays):
                try:
                    check_writable(array)
                except ConfigurationError as error:
                    raise ConfigurationError(f"array {index}: {error}") from None
            return
        diff = [
            f"array {index}: yours {_describe(other, index)}, expected {_describe(self, index)}"
            for index in range(max(len(self.shapes), len(other.shapes)))
            if _describe(other, index) != _describe(self, index)
        ]
        raise SchemaMismatch(f"{len(diff)} of {len(self.shapes)} arrays differ from the run's", diff)

    def copy(self, arrays: Sequence[Any]) -> list[Any]:
        """A copy of ``arrays``. Raises as ``check``."""
        self.check(arrays)
        return [clone(array) for array in arrays]

    def add_difference(
        self, arrays: Sequence[Any], start: Sequence[Any], averages: Sequence[npt.NDArray[Any]]
    ) -> None:
        """Adds to ``arrays``, in place, what ``averages`` (one flat vector each) differ by from ``start``."""
        for array, then, average in zip(arrays, start, averages, strict=True):
            add_difference(array, then, average)

    def empty(self) -> list[npt.NDArray[Any]]:
        """New arrays of this schema, not initialised."""
        return [np.empty(shape, dtype) for shape, dtype in zip(self.shapes, self.dtypes, strict=True)]


def _describe(schema: Schema, index: int) -> str:
    if index >= len(schema.shapes):
        return "nothing"
    return f"{schema.shapes[index]} {schema.dtypes[index]}"
