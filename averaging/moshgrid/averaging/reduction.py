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
from moshgrid.compression import Codec, CodecError
from moshgrid.compression.codec import Float32Codec

__all__ = ["Average", "apply_results", "average_part", "encode_part", "result_digest"]

_SAMPLED = 4096
"""Elements per part over which the encoding's error is measured."""
_PIECE = 1 << 15
"""Elements that are decoded, averaged and encoded at once where the codec allows it: all members' values of
them then stay in a core's cache."""


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

    None when nobody's values could be used. Values that do not decode or are not finite are refused. Where
    a codec leaves much out, own values count as their bytes would decode, too: error feedback relies on it.
    """
    span, dtype = signed.parts[part], signed.dtype
    room = _scratch.vector("decoded", span.elements, dtype)
    refused: dict[int, str] = {}
    for member, encoded in inputs.items():
        try:
            if encoded is not None:
                _check(span.codec, encoded, room)
        except CodecError as error:
            refused[member] = str(error)
    usable = {member: inputs[member] for member in sorted(inputs) if member not in refused}
    if not usable:
        return None
    weights = [signed.manifest.members[member].weight for member in usable]
    data = memory.allocate(signed.part_bytes(part))
    at_once = _PIECE if span.codec.properties.elementwise else span.elements
    width = signed.part_bytes(part) // span.elements  # of an element, where pieces are taken
    exact: Vector = np.zeros(0, dtype)
    lost: Vector = exact
    for start in range(0, span.elements, at_once):
        stop = min(start + at_once, span.elements)
        mean = _scratch.vector("mean", stop - start, dtype)
        piece = slice(start * width, stop * width) if at_once == _PIECE else slice(None)
        values: list[Vector] = []
        for index, encoded in enumerate(usable.values()):
            if encoded is None:
                values.append(own.read(span.start + start, span.start + stop))
                if span.codec.properties.elementwise:
                    continue
                encoded = memory.allocate(signed.part_bytes(part))
                span.codec.encode_into(values.pop(), encoded)
            values.append(_scratch.vector(f"input {index}", stop - start, dtype))
            span.codec.decode_into(memoryview(encoded)[piece], values[-1])
        signed.reducer.reduce(values, weights, mean)
        span.codec.encode_into(mean, data[piece])
        if start == 0:
            exact, lost = _error_of(span.codec, mean, data[piece])
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
        _check(span.codec, encoded, _scratch.vector("decoded", span.elements, signed.dtype))
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


def _check(codec: Codec, data: bytes | memoryview, room: Vector) -> None:
    """Raises CodecError for what does not decode to finite values; ``room`` may be written to."""
    if isinstance(codec, Float32Codec):
        codec.check(data, room)
    else:
        codec.decode_into(data, room)


def _error_of(codec: Codec, values: Vector, data: memoryview) -> tuple[Vector, Vector]:
    """Values of a sample in float64, and what encoding them, as ``data``, changed."""
    about, exact = codec.properties, values[:_SAMPLED].astype(np.float64)
    if about.elementwise:
        data = data[: codec.encoded_bytes(exact.size, values.dtype)]
        return exact, codec.decode(data, exact.size, values.dtype) - exact
    room = _scratch.vector("decoded", values.size, values.dtype)
    codec.decode_into(data, room)
    return exact, room[:_SAMPLED] - exact


def relative_error(squared_error: float, squared_norm: float) -> float:
    """Relative rms error; 0 for nothing, inf when something became of zero."""
    if squared_norm > 0:
        return math.sqrt(squared_error / squared_norm)
    return 0.0 if squared_error == 0 else math.inf
