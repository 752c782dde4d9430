"""Run values: the caller's arrays as the flat vector of a run, in place where memory can be shared.

numpy arrays and torch tensors in CPU memory are read and written where they are. Others (on a GPU, or of
a type that numpy does not know) are copied to the host first and written back after each round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from moshgrid.averaging.flat_arrays import FlatArrays, Vector
from moshgrid.averaging.run_config import RunConfig
from moshgrid.averaging.tensors import host_view, read_into, write_from

__all__ = ["RunValues"]


class RunValues:
    """Made of ``arrays`` that fit the run's schema; ``copied`` leaves them alone."""

    def __init__(self, config: RunConfig, arrays: Sequence[Any], copied: bool = False) -> None:
        self._order = config.order
        self._staged: list[tuple[Vector, Any]] = []
        views: list[Any] = []
        for array, size in zip(config.arranged(arrays), config.arranged(config.schema.sizes), strict=True):
            view = None if copied else host_view(array)
            if view is None:
                view = np.empty(size, config.dtype)
                read_into(view, array)
                if not copied:
                    self._staged.append((view, array))
            views.append(view)
        self._views = views
        self._has_changed = False
        self.flat = FlatArrays(views, config.dtype)

    def changed(self) -> None:
        """An average was written into ``flat``: brings it to the arrays that do not share memory with it."""
        for vector, array in self._staged:
            write_from(vector, array)
        self._has_changed = True

    @property
    def averages(self) -> list[Vector] | None:
        """A vector for each array, in the order in which they were given; None when nothing changed."""
        if not self._has_changed:
            return None
        found: list[Any] = [None] * len(self._order)
        for view, index in zip(self._views, self._order, strict=True):
            found[index] = view
        return found
