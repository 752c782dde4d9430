"""A reference of this run: the flat vector of a state that all members share, and its digest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from moshgrid.averaging.flat_arrays import FlatArrays, Vector
from moshgrid.averaging.run_config import RunConfig
from moshgrid.averaging.run_values import RunValues
from moshgrid.compression import CodecError, add_reference, reference_digest, subtract_reference
from moshgrid.p2p.errors import ConfigurationError

__all__ = ["Difference", "Reference"]


class Reference:
    """Made of ``arrays`` with the run's shapes and dtypes, which are copied.

    Raises SchemaMismatch for others, ConfigurationError for values that are not finite.
    """

    def __init__(self, config: RunConfig, arrays: Sequence[Any]) -> None:
        config.schema.check(arrays)
        flat = RunValues(config, arrays, copied=True).flat
        self._vector = flat.read(0, flat.elements)
        if not np.isfinite(self._vector).all():
            raise ConfigurationError("the reference holds NaN or infinite values")
        self.digest = reference_digest(self._vector)

    def subtracted_from(self, values: FlatArrays) -> Difference:
        """values − reference. Raises ConfigurationError when that is not finite."""
        try:
            vector = subtract_reference(values.read(0, values.elements), self._vector)
        except CodecError as error:
            raise ConfigurationError(str(error)) from error
        return Difference(vector, self._vector)


class Difference:
    """What values differ from a reference; a round averages it in place, as ``values``."""

    def __init__(self, vector: Vector, reference: Vector) -> None:
        self._vector = vector
        self._reference = reference
        self.values = FlatArrays([vector], vector.dtype)

    def write_to(self, values: FlatArrays) -> Vector:
        """Replaces ``values`` by reference + difference, which is returned; the difference is used up."""
        vector = add_reference(self._vector, self._reference)
        values.write(0, vector)
        return vector
