"""References: encoding what values differ from a state that all members share, instead of the values.

A codec's error grows with what it encodes. Members of a run are close to each other, so that the
difference to a common state is small and its error smaller still, whatever the size of the values. All
members must subtract the very same reference: the digest says which. It is a state shared on purpose (the
run's initial state, a published one), never each member's own last result.
"""

from __future__ import annotations

import numpy as np
from blake3 import blake3

from moshgrid.compression.codec import CodecError, FloatVector
from moshgrid.compression.kernels import peak_of

__all__ = ["add_reference", "fallback_codec", "reference_digest", "subtract_reference"]


def reference_digest(reference: FloatVector) -> bytes:
    """32 bytes that name a reference: BLAKE3 over its dtype and its values, little-endian."""
    wire = np.ascontiguousarray(reference, reference.dtype.newbyteorder("<"))
    return blake3(reference.dtype.name.encode()).update(wire.view(np.uint8).data).digest()


def subtract_reference(values: FloatVector, reference: FloatVector) -> FloatVector:
    """values − reference, in their dtype, as a new array.

    Raises CodecError when lengths or dtypes differ or a difference is not finite.
    """
    if values.shape != reference.shape or values.dtype != reference.dtype:
        raise CodecError("a reference has the length and the dtype of what it is subtracted from")
    with np.errstate(over="ignore", invalid="ignore"):
        difference = np.subtract(values, reference)
    if not np.isfinite(peak_of(difference)):
        raise CodecError("the values differ from the reference by more than their dtype holds")
    return difference


def add_reference(difference: FloatVector, reference: FloatVector) -> FloatVector:
    """The inverse, in place: every member adds the same two numbers and gets the same sum."""
    with np.errstate(over="ignore"):
        difference += reference
    limit = np.finfo(difference.dtype).max
    return np.clip(difference, -limit, limit, out=difference)


def fallback_codec(name: str) -> str:
    """The codec of a round whose members name different references: float16, or ``none`` where chosen."""
    return "none" if name == "none" else "float16"
