"""State for latecomers: the newest sealed average, named part by part, and whom to believe about it.

Nothing is pickled. A description lists the digest of every part as the seal named it, so parts may come
from any donor and are checked one by one. In an open run a joiner trusts the swarm: it takes the newest
round, and of that the description that most donors give.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from moshgrid.averaging.flat_arrays import FlatArrays, Vector
from moshgrid.averaging.layout import MAX_PART_BYTES, Stretch, cut, largest_part
from moshgrid.averaging.manifest import MAX_ELEMENTS, Manifest
from moshgrid.averaging.part_memory import Payload
from moshgrid.averaging.reduction import result_digest
from moshgrid.p2p.errors import MoshgridError
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.requests import Service

__all__ = [
    "STATE",
    "Chunk",
    "Description",
    "GetChunk",
    "GetState",
    "SealedState",
    "StateSnapshot",
    "choose_state",
]

MAX_CHUNKS = 16384


class GetState(msgspec.Struct, frozen=True, tag=True):
    """Asks for the description of the newest sealed state of a run."""

    run: bytes


class GetChunk(msgspec.Struct, frozen=True, tag=True):
    """Asks for the bytes of one part of a state."""

    run: bytes
    round: int
    part: int
    digest: bytes


class Description(msgspec.Struct, frozen=True, tag=True):
    """A state without its bytes. ``round`` is 0 when there is none yet."""

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
        if self.round < 1 or not 1 <= self.elements <= MAX_ELEMENTS or self.part_elements < 1:
            return False
        try:
            parts = len(self.parts())
        except (KeyError, ValueError):
            return False
        return parts == len(self.digests) and all(len(digest) == 32 for digest in self.digests)

    def parts(self) -> tuple[Stretch, ...]:
        """What each part holds. Raises KeyError or ValueError for what cannot be."""
        return cut(self.codec, self.elements, self.part_elements, np.dtype(self.dtype), MAX_CHUNKS)


class Chunk(msgspec.Struct, frozen=True, tag=True):
    """The bytes of one part, and the bitmap that its digest covers."""

    contributors: int
    data: bytes


STATE: Service[GetState | GetChunk, Description | Chunk] = Service(
    "/moshgrid/state/1",
    GetState | GetChunk,
    Description | Chunk,
    max_query=1024,
    max_answer=MAX_PART_BYTES + 40 * MAX_CHUNKS,
    deadline=30.0,
    concurrency=8,
)


@dataclass(frozen=True, slots=True)
class SealedState:
    """A state with its bytes, as held by a member that applied it."""

    description: Description
    chunks: tuple[tuple[int, Payload], ...]

    def chunk(self, query: GetChunk) -> Chunk:
        """Answers a query. Raises MoshgridError when the state has moved on."""
        if query.round != self.description.round or not 0 <= query.part < len(self.chunks):
            raise MoshgridError(f"round {query.round} is not kept any more")
        if query.digest != self.description.digests[query.part]:
            raise MoshgridError(f"part {query.part} has another digest here")
        contributors, data = self.chunks[query.part]
        return Chunk(contributors, bytes(data))


@dataclass(frozen=True, slots=True)
class StateSnapshot:
    """A downloaded and verified state. ``arrays`` have the run's shapes and dtypes."""

    round: int
    arrays: list[npt.NDArray[Any]]
    donors: tuple[PeerId, ...]


def choose_state(
    offers: Mapping[PeerId, Description], schema: bytes
) -> tuple[Description, tuple[PeerId, ...]] | None:
    """The newest state, and within that round what most donors say; with those donors.

    Descriptions that are unsound or of another schema do not count. None when nothing is left.
    """
    sound = {peer: offer for peer, offer in offers.items() if offer.is_sound and offer.schema == schema}
    if not sound:
        return None
    newest = max(offer.round for offer in sound.values())
    votes = Counter(offer.digests for offer in sound.values() if offer.round == newest)
    most = max(sorted(votes), key=lambda digests: votes[digests])
    donors = tuple(peer for peer, offer in sound.items() if offer.round == newest and offer.digests == most)
    return sound[donors[0]], donors


def is_chunk_of(description: Description, part: int, span: Stretch, chunk: Chunk) -> bool:
    """True when a chunk is what the description names, ``span`` being what the part holds."""
    dtype = np.dtype(description.dtype)
    if len(chunk.data) != span.codec.encoded_bytes(span.stop - span.start, dtype):
        return False
    if not 0 < chunk.contributors < 1 << 64:
        return False
    return result_digest(part, chunk.contributors, chunk.data) == description.digests[part]


def decode_state(description: Description, chunks: Mapping[int, Chunk], arrays: FlatArrays) -> None:
    """Writes a complete state into ``arrays``. Raises CodecError for chunks that no encoder wrote."""
    for part, span in enumerate(description.parts()):
        arrays.write(span.start, span.codec.decode(chunks[part].data, span.stop - span.start, arrays.dtype))


def sealed_state(
    manifest: Manifest, value: Sequence[bytes], results: Sequence[tuple[int, Payload]]
) -> SealedState:
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
    return SealedState(description, tuple(results))


def plain_state(round_number: int, schema: bytes, vector: Vector) -> SealedState:
    """The state after a round that had a reference: the values themselves, since a joiner may not have it.

    All members make the same bytes of it. ``vector`` is float32 or float64.
    """
    size = largest_part("none", vector.size, vector.dtype, 1)
    chunks = []
    for span in cut("none", vector.size, size, vector.dtype, MAX_CHUNKS):
        chunks.append((1, span.codec.encode(vector[span.start : span.stop]).data))
    digests = tuple(result_digest(part, *chunk) for part, chunk in enumerate(chunks))
    dtype: Literal["float32", "float64"] = "float64" if vector.dtype.itemsize == 8 else "float32"
    return SealedState(
        Description(round_number, "none", dtype, vector.size, size, schema, digests), tuple(chunks)
    )
