"""The arithmetic of a round: encode own parts, average what members sent, hash, apply. No awaits.

Runs in worker threads, in float32 (float64 for float64 data). How values are combined is the reducer's.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from blake3 import blake3

from moshgrid.averaging.flat_arrays import FlatArrays, Vector
from moshgrid.averaging.manifest import SignedManifest
from moshgrid.averaging.part_memory import PartMemory
from moshgrid.compression import CodecError

__all__ = ["Average", "apply_results", "average_part", "encode_part", "result_digest"]

_SAMPLED = 4096
"""Elements per part over which the encoding's error is measured."""


@dataclass(frozen=True, slots=True)
class Average:
    """An encoded average. ``refused`` are members whose values were unusable, with the reason."""

    data: memoryview
    contributors: int
    digest: bytes
    squared_error: float
    squared_norm: float
    refused: Mapping[int, str]


class _Scratch(threading.local):
    """Vectors of one part for each worker thread, so that no part needs fresh memory."""

    def __init__(self) -> None:
        self._vectors: dict[str, Vector] = {}

    def vector(self, use: str, size: int, dtype: np.dtype[Any]) -> Vector:
        kept = self._vectors.get(use)
        if kept is None or kept.size < size or kept.dtype != dtype:
            kept = self._vectors[use] = np.empty(size, dtype)
        return kept[:size]


_scratch = _Scratch()


def result_digest(part: int, contributors: int, data: bytes | memoryview) -> bytes:
    """What a seal names: blake3 over the part's index, the contributor bitmap and the bytes."""
    return blake3(part.to_bytes(4, "big") + contributors.to_bytes(8, "big")).update(data).digest()


def encode_part(
    signed: SignedManifest, values: FlatArrays, part: int, memory: PartMemory
) -> tuple[memoryview, int]:
    """Own values of a part, encoded, and how many of them were saturated."""
    span = signed.parts[part]
    data = memory.allocate(signed.part_bytes(part))
    return data, span.codec.encode_into(values.read(span.start, span.stop), data)


def average_part(
    signed: SignedManifest,
    part: int,
    inputs: Mapping[int, bytes | memoryview | None],
    own: FlatArrays,
    memory: PartMemory,
) -> Average | None:
    """What the round's reducer makes of ``inputs`` (None stands for ``own`` values, not encoded).

    None when nobody's values could be used. Values that do not decode or are not finite are refused.
    """
    span, dtype = signed.parts[part], signed.dtype
    weights = [member.weight for member in signed.manifest.members]
    mean = _scratch.vector("mean", span.elements, dtype)
    decoded = _scratch.vector("decoded", span.elements, dtype)
    refused: dict[int, str] = {}
    usable: dict[int, Vector] = {}
    for index, member in enumerate(sorted(inputs)):
        data = inputs[member]
        if data is None:
            usable[member] = own.read(span.start, span.stop)
            continue
        values = _scratch.vector(f"input {index}", span.elements, dtype)
        try:
            span.codec.decode_into(data, values)
        except CodecError as error:
            refused[member] = str(error)
            continue
        usable[member] = values
    if not usable:
        return None
    signed.reducer.reduce(list(usable.values()), [weights[member] for member in usable], mean)
    data = memory.allocate(signed.part_bytes(part))
    span.codec.encode_into(mean, data)
    span.codec.decode_into(data, decoded)
    exact = mean[:_SAMPLED].astype(np.float64)
    lost = decoded[:_SAMPLED] - exact
    bitmap = sum(1 << member for member in usable)
    return Average(
        data,
        bitmap,
        result_digest(part, bitmap, data),
        float(np.sum(lost * lost)),
        float(np.sum(exact * exact)),
        refused,
    )


def apply_results(signed: SignedManifest, data: Sequence[bytes | memoryview], arrays: FlatArrays) -> str:
    """Writes the results of all parts into ``arrays``; returns the hex blake3 of their bytes.

    Raises CodecError, with ``arrays`` as they were, when one does not decode to finite values.
    """
    digest = blake3()
    for span, encoded in zip(signed.parts, data, strict=True):
        span.codec.decode_into(encoded, _scratch.vector("decoded", span.elements, signed.dtype))
        digest.update(encoded)
    for span, encoded in zip(signed.parts, data, strict=True):
        window = arrays.window(span.start, span.stop)
        if window is not None:
            span.codec.decode_into(encoded, window)
        else:
            decoded = _scratch.vector("decoded", span.elements, signed.dtype)
            span.codec.decode_into(encoded, decoded)
            arrays.write(span.start, decoded)
    return digest.hexdigest()


def relative_error(squared_error: float, squared_norm: float) -> float:
    """Relative rms error; 0 for nothing, inf when something became of zero."""
    if squared_norm > 0:
        return math.sqrt(squared_error / squared_norm)
    return 0.0 if squared_error == 0 else math.inf
