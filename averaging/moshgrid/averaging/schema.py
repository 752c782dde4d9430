"""Schema: the shapes and dtypes that all members of a run share, and the one flat vector they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from moshgrid.p2p.errors import ConfigurationError, SchemaMismatch

__all__ = ["Schema", "as_numpy"]

_FLOATS = ("float16", "float32", "float64", "bfloat16")


def as_numpy(array: Any) -> npt.NDArray[Any]:
    """A numpy array that shares memory with ``array`` (numpy, or a torch tensor in CPU memory).

    Raises ConfigurationError for anything else.
    """
    if isinstance(array, np.ndarray):
        return array
    if hasattr(array, "detach") and hasattr(array, "device"):
        if array.device.type != "cpu":
            raise ConfigurationError(
                f"tensors on {array.device} cannot be averaged in place yet; pass tensor.cpu() and copy back"
            )
        try:
            return array.detach().numpy()  # type: ignore[no-any-return]
        except TypeError as error:
            raise ConfigurationError(f"a {array.dtype} tensor cannot be averaged yet: {error}") from error
    raise ConfigurationError(f"expected numpy arrays or torch tensors, not {type(array).__name__}")


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
        views = [as_numpy(array) for array in arrays]
        for index, view in enumerate(views):
            if view.dtype.name not in _FLOATS:
                raise ConfigurationError(
                    f"array {index} is {view.dtype}; only floating point arrays can be averaged "
                    "(leave integer buffers out, or convert them)"
                )
        return cls(tuple(view.shape for view in views), tuple(view.dtype.name for view in views))

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many elements each array has."""
        return tuple(int(np.prod(shape)) for shape in self.shapes)

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

    def wire_dtype(self, codec_dtypes: Sequence[str]) -> np.dtype[Any]:
        """The dtype of the flat vector: float64 if any array is and the codec takes it, else float32."""
        wants = "float64" if "float64" in self.dtypes else "float32"
        return np.dtype(wants if wants in codec_dtypes else "float32")

    def check(self, arrays: Sequence[Any]) -> list[npt.NDArray[Any]]:
        """The arrays as numpy views. Raises SchemaMismatch with a line per difference."""
        other = Schema.of(arrays)
        if other == self:
            return [as_numpy(array) for array in arrays]
        diff = [
            f"array {index}: yours {_describe(other, index)}, expected {_describe(self, index)}"
            for index in range(max(len(self.shapes), len(other.shapes)))
            if _describe(other, index) != _describe(self, index)
        ]
        raise SchemaMismatch(f"{len(diff)} of {len(self.shapes)} arrays differ from the run's", diff)

    def empty(self) -> list[npt.NDArray[Any]]:
        """New arrays of this schema, not initialised."""
        return [np.empty(shape, dtype) for shape, dtype in zip(self.shapes, self.dtypes, strict=True)]


def _describe(schema: Schema, index: int) -> str:
    if index >= len(schema.shapes):
        return "nothing"
    return f"{schema.shapes[index]} {schema.dtypes[index]}"
