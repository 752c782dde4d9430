"""Reducers: how the values that several members sent for a part become one.

Chosen by name (``Averager(reducer=…)``), written into the manifest and refused where members differ. The
robust ones leave weights aside, so that nobody buys influence with a weight; they need every member's
values at once. A reducer of one's own is added with ``register_reducer`` at all members.
(Yin et al., "Byzantine-robust distributed learning", 2018, §4: coordinate-wise median and trimmed mean.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Mean", "Median", "Reducer", "TrimmedMean", "get_reducer", "register_reducer"]

Vector = npt.NDArray[np.floating[Any]]

_BLOCK = 1 << 15
"""Elements that are summed up at once, so that they stay in a core's cache."""


class Reducer(Protocol):
    """What the engine asks of a reducer."""

    @property
    def name(self) -> str:
        """What manifests call it: 1 to 32 characters."""
        ...

    def reduce(self, vectors: Sequence[Vector], weights: Sequence[float], out: Vector) -> None:
        """Fills ``out`` from at least one vector, all finite, one-dimensional and of its size and dtype.

        The dtype is float32 or float64. ``weights`` are those of the manifest, all above 0; vectors come in
        roster order. Must not change them, and must give the same result for the same arguments.
        """
        ...


class Mean:
    """The weighted mean. Weights are scaled to sum to 1 first, so that large values cannot overflow."""

    name = "mean"

    def reduce(self, vectors: Sequence[Vector], weights: Sequence[float], out: Vector) -> None:
        """See ``Reducer.reduce``."""
        total = sum(weights)
        shares = [out.dtype.type(weight / total) for weight in weights]
        scratch = np.empty(min(_BLOCK, out.size), out.dtype)
        for start in range(0, out.size, _BLOCK):
            mean = out[start : start + _BLOCK]
            scaled = scratch[: mean.size]
            np.multiply(vectors[0][start : start + _BLOCK], shares[0], out=mean)
            for vector, share in zip(vectors[1:], shares[1:], strict=True):
                np.multiply(vector[start : start + _BLOCK], share, out=scaled)
                np.add(mean, scaled, out=mean)


class Median:
    """The median of each coordinate. Right while fewer than half of the members are wrong."""

    name = "median"

    def reduce(self, vectors: Sequence[Vector], weights: Sequence[float], out: Vector) -> None:
        """See ``Reducer.reduce``; ``weights`` do not count."""
        out[...] = _middle(vectors, (len(vectors) - 1) // 2)


class TrimmedMean:
    """The mean of each coordinate without its ``share`` of highest and of lowest values, at least one each.

    Right while no more members than are cut off at one end are wrong: 1 of 3 or 4, 2 of 8, 4 of 16. With
    one or two members it is their mean.
    """

    name = "trimmed_mean"

    def __init__(self, share: float = 0.25) -> None:
        self._share = share

    def reduce(self, vectors: Sequence[Vector], weights: Sequence[float], out: Vector) -> None:
        """See ``Reducer.reduce``; ``weights`` do not count."""
        n = len(vectors)
        out[...] = _middle(vectors, min(max(1, int(n * self._share)), (n - 1) // 2))


def _middle(vectors: Sequence[Vector], cut: int) -> Vector:
    """Per coordinate the mean of what is left without the ``cut`` highest and lowest values."""
    ordered = np.sort(np.stack(vectors), axis=0)
    kept = ordered[cut : len(vectors) - cut]
    kept *= kept.dtype.type(1 / len(kept))
    middle: Vector = kept.sum(axis=0, dtype=kept.dtype)
    return middle


_registry: dict[str, Reducer] = {reducer.name: reducer for reducer in (Mean(), Median(), TrimmedMean())}


def register_reducer(reducer: Reducer) -> None:
    """Makes ``reducer`` known by its name. Raises ValueError when the name is taken or too long."""
    if not 1 <= len(reducer.name) <= 32 or reducer.name in _registry:
        raise ValueError(f"the name {reducer.name!r} is taken, or not 1 to 32 characters long")
    _registry[reducer.name] = reducer


def get_reducer(name: str) -> Reducer:
    """The reducer of that name. Raises KeyError with the names there are."""
    if name not in _registry:
        raise KeyError(f"there is no reducer {name!r}; there are: {', '.join(_registry)}")
    return _registry[name]
