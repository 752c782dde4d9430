"""The arithmetic of a round: encode own parts, average what members sent, hash, decode. No awaits.

Runs in worker threads, in float32 (float64 for float64 data). How values are combined is the reducer's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from moshgrid.averaging.manifest import SignedManifest
from moshgrid.compression import CodecError

__all__ = ["Average", "average_part", "decode_results", "encode_part", "result_digest"]

Vector = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Average:
    """An encoded average. ``refused`` are members whose values were unusable, with the reason."""

    data: bytes
    contributors: int
    digest: bytes
    squared_error: float
    squared_norm: float
    refused: Mapping[int, str]


def result_digest(part: int, contributors: int, data: bytes | memoryview) -> bytes:
    """What a seal names: blake3 over the part's index, the contributor bitmap and the bytes."""
    return blake3(part.to_bytes(4, "big") + contributors.to_bytes(8, "big")).update(data).digest()


def encode_part(signed: SignedManifest, vector: Vector, part: int) -> tuple[bytes, int]:
    """Own values of a part, encoded, and how many of them were saturated."""
    span = signed.parts[part]
    encoded = signed.codec.encode(vector[span.start : span.stop])
    return encoded.data, encoded.saturated


def average_part(
    signed: SignedManifest,
    part: int,
    inputs: Mapping[int, bytes | memoryview | None],
    own: Vector,
) -> Average | None:
    """What the round's reducer makes of ``inputs`` (None stands for ``own`` values, not encoded).

    None when nobody's values could be used. Values that do not decode or are not finite are refused.
    """
    span = signed.parts[part]
    members = signed.manifest.members
    usable: dict[int, Vector] = {}
    refused: dict[int, str] = {}
    for member in sorted(inputs):
        data = inputs[member]
        try:
            values = (
                own[span.start : span.stop]
                if data is None
                else signed.codec.decode(data, span.elements, signed.dtype)
            )
        except CodecError as error:
            refused[member] = str(error)
            continue
        if not np.isfinite(values).all():
            refused[member] = "sent values that are not finite"
            continue
        usable[member] = values
    if not usable:
        return None
    mean = signed.reducer.reduce(list(usable.values()), [members[member].weight for member in usable])
    data = signed.codec.encode(mean).data
    added = signed.codec.decode(data, span.elements, signed.dtype) - mean
    bitmap = sum(1 << member for member in usable)
    return Average(
        data,
        bitmap,
        result_digest(part, bitmap, data),
        _squared(added),
        _squared(mean),
        refused,
    )


def decode_results(signed: SignedManifest, data: Sequence[bytes | memoryview]) -> tuple[Vector, str]:
    """The whole averaged vector from the bytes of every part, and the hex blake3 of those bytes."""
    vector = np.empty(signed.manifest.elements, signed.dtype)
    digest = blake3()
    for span, encoded in zip(signed.parts, data, strict=True):
        vector[span.start : span.stop] = signed.codec.decode(encoded, span.elements, signed.dtype)
        digest.update(encoded)
    return vector, digest.hexdigest()


def _squared(vector: Vector) -> float:
    """The squared norm; in float64, where the squares of large float32 values fit."""
    wide = vector.astype(np.float64)
    return float(np.dot(wide, wide))


def relative_error(squared_error: float, squared_norm: float) -> float:
    """Relative rms error; 0 for nothing, inf when something became of zero."""
    if squared_norm > 0:
        return math.sqrt(squared_error / squared_norm)
    return 0.0 if squared_error == 0 else math.inf
