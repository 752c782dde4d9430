"""State for latecomers: what the newest state of a run is, named chunk by chunk by the digests of its bytes.

There are two kinds. A sealed state is the average that a round sealed, as it was encoded. A named state is
what a layer above says a newcomer needs: arrays with names, and a little more. Nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import msgspec
import numpy as np
from blake3 import blake3

from moshgrid.averaging.flat_arrays import Vector
from moshgrid.averaging.layout import Stretch, cut, largest_part
from moshgrid.averaging.manifest import MAX_ELEMENTS, Manifest
from moshgrid.averaging.named_arrays import (
    ArraySpec,
    NamedState,
    chunk_bytes_for,
    pack,
    specs_of,
    total_bytes,
)
from moshgrid.averaging.part_memory import Payload
from moshgrid.averaging.reduction import result_digest
from moshgrid.p2p.errors import MoshgridError

__all__ = [
    "MAX_CHUNKS",
    "Brief",
    "Chunk",
    "Description",
    "KeptState",
    "NamedDescription",
    "StateDescription",
    "brief_of",
    "is_chunk_of",
    "keep_named",
    "named_in",
    "plain_state",
    "sealed_state",
]

MAX_CHUNKS = 16384
MAX_META_BYTES = 64 * 1024


class Description(msgspec.Struct, frozen=True, tag="sealed", dict=True):
    """A sealed average without its bytes."""

    round: int
    codec: str = "none"
    dtype: Literal["float32", "float64"] = "float32"
    elements: int = 0
    part_elements: int = 0
    schema: bytes = b""
    digests: tuple[bytes, ...] = ()

    @property
    def is_sound(self) -> bool:
        """False when its numbers contradict each other or the limits."""
        if not 1 <= self.round < 2**40 or not 1 <= self.elements <= MAX_ELEMENTS or self.part_elements < 1:
            return False
        try:
            parts = len(self.parts)
        except (KeyError, ValueError):
            return False
        return parts == len(self.digests) and all(len(digest) == 32 for digest in self.digests)

    @cached_property
    def id(self) -> bytes:
        """32 bytes that name the state and everything in it."""
        return blake3(msgspec.msgpack.encode(self)).digest()

    @cached_property
    def parts(self) -> tuple[Stretch, ...]:
        """What each part holds. Raises KeyError or ValueError for what cannot be."""
        return cut(self.codec, self.elements, self.part_elements, np.dtype(self.dtype), MAX_CHUNKS)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Bytes of each chunk."""
        dtype = np.dtype(self.dtype)
        return tuple(span.codec.encoded_bytes(span.stop - span.start, dtype) for span in self.parts)


class NamedDescription(msgspec.Struct, frozen=True, tag="named", dict=True):
    """A named state without its bytes: all arrays one after the other, cut into chunks."""

    round: int
    schema: bytes
    """The digest of what the run averages: a state of another model is not taken."""
    arrays: tuple[ArraySpec, ...]
    meta: bytes
    """msgpack, at most 64 KiB."""
    chunk_bytes: int
    digests: tuple[bytes, ...]

    @property
    def is_sound(self) -> bool:
        """False when its numbers contradict each other or the limits."""
        if not 0 <= self.round < 2**40 or len(self.meta) > MAX_META_BYTES:
            return False
        if len(self.arrays) > MAX_CHUNKS or not all(spec.is_sound for spec in self.arrays):
            return False
        if len({spec.name for spec in self.arrays}) != len(self.arrays):
            return False
        total = total_bytes(self.arrays)
        try:
            expected = chunk_bytes_for(total, MAX_CHUNKS)
        except ValueError:
            return False
        return (
            self.chunk_bytes == expected
            and len(self.digests) == -(-total // self.chunk_bytes)
            and all(len(digest) == 32 for digest in self.digests)
        )

    @cached_property
    def id(self) -> bytes:
        """32 bytes that name the state and everything in it."""
        return blake3(msgspec.msgpack.encode(self)).digest()

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Bytes of each chunk."""
        total = total_bytes(self.arrays)
        return tuple(min(self.chunk_bytes, total - at) for at in range(0, total, self.chunk_bytes))


StateDescription: TypeAlias = Description | NamedDescription


class Brief(msgspec.Struct, frozen=True):
    """What a state is known by before its description is read."""

    round: int
    id: bytes
    """Of its description, which is thereby what the offerer meant, whoever gives it."""
    schema: bytes

    @property
    def is_sound(self) -> bool:
        """False for what no state can have."""
        return 0 <= self.round < 2**40 and len(self.id) == 32


def brief_of(state: StateDescription) -> Brief:
    """What ``state`` is known by."""
    return Brief(state.round, state.id, state.schema)


class Chunk(msgspec.Struct, frozen=True, tag=True):
    """The bytes of one chunk, and the bitmap that its digest covers (1 in a named state)."""

    contributors: int
    data: bytes


@dataclass(frozen=True, slots=True)
class KeptState:
    """A state with its bytes, as a donor holds it."""

    description: StateDescription
    chunks: tuple[tuple[int, Payload], ...]

    def chunk(self, part: int) -> Chunk:
        """The bytes of a chunk. Raises MoshgridError when there is no such one."""
        if not 0 <= part < len(self.chunks):
            raise MoshgridError(f"the state has no chunk {part}")
        contributors, data = self.chunks[part]
        return Chunk(contributors, bytes(data))


def is_chunk_of(description: StateDescription, part: int, chunk: Chunk) -> bool:
    """True when a chunk is what the description names."""
    if len(chunk.data) != description.lengths[part] or not 0 < chunk.contributors < 1 << 64:
        return False
    return result_digest(part, chunk.contributors, chunk.data) == description.digests[part]


def sealed_state(
    manifest: Manifest, value: Sequence[bytes], results: Sequence[tuple[int, Payload]]
) -> KeptState:
    """The state after a round: per part the digest that was sealed, its contributor bitmap and its bytes."""
    description = Description(
        round=manifest.round,
        codec=manifest.codec,
        dtype=manifest.dtype,
        elements=manifest.elements,
        part_elements=manifest.part_elements,
        schema=manifest.schema,
        digests=tuple(value),
    )
    return KeptState(description, tuple(results))


def plain_state(round_number: int, schema: bytes, vector: Vector) -> KeptState:
    """The state after a round that had a reference: the values themselves, since a joiner may not have it.

    All members make the same bytes of it. ``vector`` is float32 or float64.
    """
    size = largest_part("none", vector.size, vector.dtype, 1)
    chunks = []
    for span in cut("none", vector.size, size, vector.dtype, MAX_CHUNKS):
        chunks.append((1, span.codec.encode(vector[span.start : span.stop]).data))
    digests = tuple(result_digest(part, *chunk) for part, chunk in enumerate(chunks))
    dtype: Literal["float32", "float64"] = "float64" if vector.dtype.itemsize == 8 else "float32"
    return KeptState(
        Description(round_number, "none", dtype, vector.size, size, schema, digests), tuple(chunks)
    )


def keep_named(state: NamedState, schema: bytes) -> KeptState:
    """A named state as donors hold it: its bytes copied once, and their digests.

    Raises ConfigurationError for arrays or a ``meta`` that cannot travel.
    """
    meta = state.encoded_meta(MAX_META_BYTES)
    specs = specs_of(state, MAX_CHUNKS)
    buffer = pack(state.arrays, specs)
    size = chunk_bytes_for(len(buffer), MAX_CHUNKS)
    chunks = tuple((1, buffer[at : at + size]) for at in range(0, len(buffer), size))
    digests = tuple(result_digest(part, 1, data) for part, (_, data) in enumerate(chunks))
    return KeptState(NamedDescription(state.round, schema, specs, meta, size, digests), chunks)


def named_in(description: NamedDescription, buffer: bytearray) -> NamedState:
    """The named state whose chunks ``buffer`` holds; the arrays share its memory.

    Raises MoshgridError when the description's ``meta`` cannot be read.
    """
    return NamedState.of(description.round, buffer, description.arrays, description.meta)
