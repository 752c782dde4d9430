"""Named arrays: a state as a layer above describes it, and how its bytes stand one after the other.

Each array begins at a multiple of 64 bytes, so that it can be used where it was received. Little-endian,
C order; the gaps are zero. bfloat16, which numpy does not know, travels as its 16 bits.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Self

import msgspec
import numpy as np
import numpy.typing as npt

from moshgrid.p2p.decoding import Unreadable, decode
from moshgrid.p2p.errors import ConfigurationError, MoshgridError

__all__ = [
    "ArraySpec",
    "NamedState",
    "arrays_in",
    "chunk_bytes_for",
    "offsets",
    "pack",
    "specs_of",
    "total_bytes",
]

_ALIGNMENT = 64
_SMALLEST_CHUNK = 512 * 1024
_LARGEST_CHUNK = 4 * 1024 * 1024
_MAX_NAME = 256
_MAX_DIMENSIONS = 16

_ITEM_BYTES = {
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "bool": 1,
    "int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8,
}  # fmt: skip

Array = npt.NDArray[Any]

_META: msgspec.msgpack.Decoder[dict[str, Any]] = msgspec.msgpack.Decoder(dict[str, Any])


class ArraySpec(msgspec.Struct, frozen=True, array_like=True):
    """Name, dtype and shape of one array."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def is_sound(self) -> bool:
        """False for what no array can be."""
        return (
            0 < len(self.name) <= _MAX_NAME
            and self.dtype in _ITEM_BYTES
            and len(self.shape) <= _MAX_DIMENSIONS
            and all(0 <= size < 2**40 for size in self.shape)
            and self.bytes < 2**40
        )

    @property
    def bytes(self) -> int:
        """Without the gap after it."""
        return prod(self.shape) * _ITEM_BYTES[self.dtype]

    def __str__(self) -> str:
        return f"{self.shape} {self.dtype}"


@dataclass(frozen=True)
class NamedState:
    """What a newcomer needs, after ``round``: arrays by name, and ``meta``, which msgpack can hold.

    ``bfloat16`` names the arrays whose values are bfloat16, held as uint16.
    """

    round: int
    arrays: Mapping[str, Array]
    meta: Mapping[str, Any] = field(default_factory=dict)
    bfloat16: frozenset[str] = frozenset()

    @classmethod
    def of(cls, round_number: int, buffer: bytearray, specs: Sequence[ArraySpec], meta: bytes) -> Self:
        """The state that travelled as ``buffer``, whose memory the arrays share; they are read-only.

        Raises MoshgridError when ``meta`` is no mapping in msgpack.
        """
        try:
            small = decode(_META, meta)
        except Unreadable as error:
            raise MoshgridError(f"the state's small values cannot be read: {error}") from None
        halves = frozenset(spec.name for spec in specs if spec.dtype == "bfloat16")
        arrays = arrays_in(buffer, specs)
        for array in arrays.values():
            array.flags.writeable = False  # others are served from the same memory
        return cls(round_number, arrays, small, halves)

    def encoded_meta(self, most: int) -> bytes:
        """``meta`` as msgpack. Raises ConfigurationError when it is too large or of unknown types."""
        try:
            encoded = msgspec.msgpack.encode(dict(self.meta), order="deterministic")
        except (TypeError, msgspec.MsgspecError) as error:
            raise ConfigurationError(f"the state's meta cannot be encoded: {error}") from None
        if len(encoded) > most:
            raise ConfigurationError(f"the state's meta has {len(encoded)} bytes; at most {most}")
        return encoded


def specs_of(state: NamedState, most: int) -> tuple[ArraySpec, ...]:
    """What the arrays are, in their order. Raises ConfigurationError for what cannot travel."""
    specs = tuple(
        ArraySpec(name, "bfloat16" if name in state.bfloat16 else array.dtype.name, array.shape)
        for name, array in state.arrays.items()
    )
    for spec in specs:
        if not spec.is_sound:
            raise ConfigurationError(f"the array {spec.name!r} ({spec}) cannot be part of a state")
    if len(specs) > most:
        raise ConfigurationError(f"a state has at most {most} arrays, not {len(specs)}")
    return specs


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def offsets(specs: Sequence[ArraySpec]) -> tuple[int, ...]:
    """Where each array begins."""
    found, at = [], 0
    for spec in specs:
        found.append(at)
        at += _padded(spec.bytes)
    return tuple(found)


def total_bytes(specs: Sequence[ArraySpec]) -> int:
    """All arrays with their gaps."""
    return sum(_padded(spec.bytes) for spec in specs)


def chunk_bytes_for(total: int, most: int) -> int:
    """512 KiB, or more where there were more than ``most`` chunks. Raises ValueError over 4 MiB."""
    size = _SMALLEST_CHUNK
    while -(-total // size) > most:
        size *= 2
    if size > _LARGEST_CHUNK:
        raise ValueError(f"a state has at most {most * _LARGEST_CHUNK} bytes, not {total}")
    return size


def pack(arrays: Mapping[str, Array], specs: Sequence[ArraySpec]) -> memoryview:
    """A copy of all arrays, as it travels."""
    buffer = bytearray(total_bytes(specs))
    for array, target in zip(arrays.values(), arrays_in(buffer, specs).values(), strict=True):
        target[...] = array
    return memoryview(buffer)


def arrays_in(buffer: bytearray, specs: Sequence[ArraySpec]) -> dict[str, Array]:
    """The arrays in a buffer, sharing its memory; bfloat16 as uint16."""
    if sys.byteorder != "little":
        raise ConfigurationError("states can be exchanged on little-endian computers only")
    whole = np.frombuffer(buffer, np.uint8)
    found = {}
    for spec, at in zip(specs, offsets(specs), strict=True):
        dtype = "uint16" if spec.dtype == "bfloat16" else spec.dtype
        found[spec.name] = whole[at : at + spec.bytes].view(dtype).reshape(spec.shape)
    return found
