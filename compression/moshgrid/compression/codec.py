"""What a codec is: a float part into bytes whose length follows from the element count alone, and back."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "MAX_VALUE",
    "Buffer",
    "ByteVector",
    "Codec",
    "CodecError",
    "CodecProperties",
    "Encoded",
    "Float32Codec",
    "FloatVector",
    "saturate",
]

FloatVector = npt.NDArray[np.floating[Any]]
"""A one-dimensional float32 (or, with the codec ``none``, float64) array."""

ByteVector = npt.NDArray[np.uint8]
Buffer: TypeAlias = "bytes | bytearray | memoryview"

MAX_VALUE = 65504.0
"""The largest float16. What is beyond saturates with every codec but ``none`` and ``bfloat16``; scales
and codebooks beyond are refused."""

_SCRATCH_BYTES = 512 * 1024


class CodecError(ValueError):
    """Bytes that no encoder of this codec could have made, or values that it cannot take."""


@dataclass(frozen=True, slots=True)
class CodecProperties:
    """What the averaging engine may rely on.

    For every value x that does not saturate, |x − decode(encode(x))| is at most
    ``relative_error`` × |x| + ``peak_error`` × (the largest |x| of its block) + ``absolute_error``.
    """

    bits_per_value: float
    """Encoded bits per element, without what a part costs once."""
    relative_error: float = 0.0
    peak_error: float = 0.0
    absolute_error: float = 0.0
    block: int = 0
    """Elements that share a scale; 0 when the whole part does, or when values stand alone."""
    elementwise: bool = False
    """Each value has bytes of its own, in order: a piece of the bytes is a piece of the part."""
    additive: bool = False
    """Sums of encoded values mean something in the code's own domain."""
    deterministic: bool = True
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
        """The name users give and the manifest carries: the codec's id on the wire."""
        ...

    @property
    def properties(self) -> CodecProperties:
        """What may be relied on."""
        ...

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes that may be encoded, best first: ``float32``, ``float64``."""
        ...

    def encoded_bytes(self, count: int, dtype: np.dtype[Any]) -> int:
        """The exact length of ``count`` encoded elements of ``dtype``. Raises CodecError for others."""
        ...

    def encode(self, values: FloatVector) -> Encoded:
        """Encodes a contiguous 1-D array of a dtype in ``dtypes``.

        Raises CodecError for another dtype or shape, and for NaN or infinite values. Finite values
        beyond the code's range saturate and are counted.
        """
        ...

    def encode_into(self, values: FloatVector, out: memoryview) -> int:
        """Like ``encode``, into the writable ``out`` of the exact length; returns how many saturated."""
        ...

    def decode(self, data: Buffer, count: int, dtype: np.dtype[Any]) -> FloatVector:
        """``count`` elements of ``dtype`` from exactly ``encoded_bytes(count, dtype)`` bytes.

        Raises CodecError for any other length, before anything is allocated, and for bytes that
        would decode to NaN or infinite values. The result may share memory with ``data`` and may be
        read-only.
        """
        ...

    def decode_into(self, data: Buffer, out: FloatVector) -> None:
        """Like ``decode``, into the contiguous 1-D ``out``, whose size and dtype say what is expected.

        After a CodecError about the content, ``out`` holds anything.
        """
        ...


class _Scratch(threading.local):
    """Where a part is put together: it stays in the processor's cache from one part to the next."""

    def __init__(self) -> None:
        self.bytes = np.empty(_SCRATCH_BYTES, np.uint8)


_scratch = _Scratch()


class Float32Codec:
    """The part that codecs for float32 share: checks first, then ``_write`` or ``_read`` of sound input."""

    name: str
    properties: CodecProperties
    dtypes: tuple[str, ...] = ("float32",)

    def encoded_bytes(self, count: int, dtype: np.dtype[Any]) -> int:
        if dtype.name not in self.dtypes:
            raise CodecError(f"the codec {self.name} takes {' or '.join(self.dtypes)}, not {dtype}")
        if count < 0:
            raise CodecError(f"{count} elements cannot be")
        return self._length(count)

    def encode(self, values: FloatVector) -> Encoded:
        length = self._check(values)
        data = _scratch.bytes[:length] if length <= _SCRATCH_BYTES else np.empty(length, np.uint8)
        saturated = self._write(values, data)
        return Encoded(data.tobytes(), saturated)

    def encode_into(self, values: FloatVector, out: memoryview) -> int:
        if out.nbytes != self._check(values):
            raise CodecError(f"{values.size} {self.name} values do not take {out.nbytes} bytes")
        return self._write(values, np.frombuffer(out, np.uint8))

    def decode(self, data: Buffer, count: int, dtype: np.dtype[Any]) -> FloatVector:
        self._check_length(data, count, dtype)
        out = np.empty(count, np.float32)
        self._read(np.frombuffer(data, np.uint8), out)
        return out

    def decode_into(self, data: Buffer, out: FloatVector) -> None:
        self._check(out)
        self._check_length(data, out.size, out.dtype)
        self._read(np.frombuffer(data, np.uint8), out)

    def check(self, data: Buffer, room: FloatVector) -> None:
        """Raises CodecError for what ``decode_into(data, room)`` would; ``room`` then holds anything."""
        self._check(room)
        self._check_length(data, room.size, room.dtype)
        self._look_over(np.frombuffer(data, np.uint8), room)

    def _look_over(self, data: ByteVector, room: FloatVector) -> None:
        """Raises CodecError where ``_read`` would; a codec that can tell without decoding says so here."""
        self._read(data, room)

    def _length(self, count: int) -> int:
        """Bytes for ``count`` elements."""
        raise NotImplementedError

    def _write(self, values: FloatVector, data: ByteVector) -> int:
        """Fills ``data`` (of the right length); returns how many values were saturated."""
        raise NotImplementedError

    def _read(self, data: ByteVector, out: FloatVector) -> None:
        """Fills ``out`` from ``data`` (of the right length, maybe read-only and unaligned)."""
        raise NotImplementedError

    def _check(self, values: FloatVector) -> int:
        if values.ndim != 1 or not values.flags.c_contiguous:
            raise CodecError(f"the codec {self.name} takes contiguous one-dimensional arrays")
        return self.encoded_bytes(values.size, values.dtype)

    def _check_length(self, data: Buffer, count: int, dtype: np.dtype[Any]) -> None:
        expected = self.encoded_bytes(count, dtype)
        if memoryview(data).nbytes != expected:
            raise CodecError(
                f"{memoryview(data).nbytes} bytes cannot be {count} {self.name} values, which take {expected}"
            )


def saturate(values: FloatVector, peak: float, limit: float) -> tuple[FloatVector, int]:
    """``values`` within ±``limit``, and how many were not; a copy only when some were not.

    ``peak`` is the largest absolute value, NaN when there is one. Raises CodecError when not finite.
    """
    if not math.isfinite(peak):
        raise CodecError("values that are not finite cannot be encoded")
    if peak <= limit:
        return values, 0
    return np.clip(values, -limit, limit), int(np.count_nonzero(np.abs(values) > np.float32(limit)))
