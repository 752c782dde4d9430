"""A reference of this run: the flat vector of a state that all members share, and its digest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from moshgrid.averaging.reduction import Vector
from moshgrid.averaging.run_config import RunConfig
from moshgrid.compression import CodecError, add_reference, reference_digest, subtract_reference
from moshgrid.p2p.errors import ConfigurationError

__all__ = ["Reference"]


class Reference:
    """Made of ``arrays`` with the run's shapes and dtypes, which are copied.

    Raises SchemaMismatch for others, ConfigurationError for values that are not finite.
    """

    def __init__(self, config: RunConfig, arrays: Sequence[Any]) -> None:
        views = config.arranged(config.schema.check(arrays))
        self._vector = config.schema.flatten(views, config.dtype)
        if not np.isfinite(self._vector).all():
            raise ConfigurationError("the reference holds NaN or infinite values")
        self.digest = reference_digest(self._vector)

    def subtracted_from(self, vector: Vector) -> Vector:
        """vector − reference, new. Raises ConfigurationError when that is not finite."""
        try:
            return subtract_reference(vector, self._vector)
        except CodecError as error:
            raise ConfigurationError(str(error)) from error

    def added_to(self, vector: Vector) -> Vector:
        """vector + reference, in place."""
        return add_reference(vector, self._vector)
