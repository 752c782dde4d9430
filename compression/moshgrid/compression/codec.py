"""What a codec is: a float part into bytes whose length follows from the element count alone, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Codec", "CodecError", "CodecProperties", "Encoded", "FloatVector"]

FloatVector = npt.NDArray[np.floating[Any]]
"""A one-dimensional float32 (or, with the codec ``none``, float64) array."""


class CodecError(ValueError):
    """Bytes that no encoder of this codec could have made, or values that it cannot take."""


@dataclass(frozen=True, slots=True)
class CodecProperties:
    """What the averaging engine may rely on."""

    bits_per_value: float
    """Encoded bits per element, without what a part costs once."""
    relative_error: float
    """Bound on |x − decode(encode(x))| ÷ |x| for values inside the normal range; 0 for exact."""
    additive: bool
    """Sums of encoded values mean something in the code's own domain."""
    deterministic: bool
    """The same values give the same bytes on every machine and kernel."""
    phases: int = 1
    """Exchanges per round that the codec needs."""


class Encoded(NamedTuple):
    """Encoded bytes, and how many values had to be saturated to fit the code's range."""

    data: bytes
    saturated: int


class Codec(Protocol):
    """Encodes one part of a vector. Stateless; safe to call from several threads."""

    @property
    def name(self) -> str:
        """The name users give, and the manifest carries."""
        ...

    @property
    def properties(self) -> CodecProperties:
        """What may be relied on."""
        ...

    def encoded_bytes(self, count: int, dtype: np.dtype[Any]) -> int:
        """The exact length of ``count`` encoded elements of ``dtype``."""
        ...

    def encode(self, values: FloatVector) -> Encoded:
        """Encodes a contiguous 1-D array of a dtype in ``dtypes``.

        Raises CodecError for another dtype or shape. Values beyond the code's range saturate.
        """
        ...

    def decode(self, data: bytes | memoryview, count: int, dtype: np.dtype[Any]) -> FloatVector:
        """``count`` elements of ``dtype`` from exactly ``encoded_bytes(count, dtype)`` bytes.

        Raises CodecError for any other length, before anything is allocated. The result may
        share memory with ``data`` and may be read-only.
        """
        ...

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes that may be encoded, best first: ``float32``, ``float64``."""
        ...
