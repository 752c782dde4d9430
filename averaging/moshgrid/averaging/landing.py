"""Where the chunks of a state go as they come, and what is made of them when all are here."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moshgrid.averaging.flat_arrays import FlatArrays
from moshgrid.averaging.named_arrays import NamedState
from moshgrid.averaging.run_config import RunConfig
from moshgrid.averaging.state import (
    Chunk,
    Description,
    KeptState,
    NamedDescription,
    StateDescription,
    named_in,
)

__all__ = ["Landing"]


class Landing:
    """Chunks of one state that passed their check; as much memory as the state has bytes."""

    def __init__(self, description: StateDescription) -> None:
        self.description = description
        self._chunks: dict[int, Chunk] = {}
        self._starts: list[int] = []
        self._buffer = bytearray()
        if isinstance(description, NamedDescription):
            self._starts = [part * description.chunk_bytes for part in range(len(description.digests))]
            self._buffer = bytearray(sum(description.lengths))
        self._here: set[int] = set()
        self.bytes_here = 0
        """How many bytes have come."""

    @property
    def missing(self) -> list[int]:
        """The chunks that have not come."""
        return [part for part in range(len(self.description.digests)) if part not in self._here]

    def put(self, part: int, chunk: Chunk) -> None:
        """Keeps a chunk that was checked."""
        if isinstance(self.description, NamedDescription):
            start = self._starts[part]
            self._buffer[start : start + len(chunk.data)] = chunk.data
        else:
            self._chunks[part] = chunk
        if part not in self._here:
            self._here.add(part)
            self.bytes_here += len(chunk.data)

    def take_over(self, older: Landing) -> None:
        """Keeps of an older state whatever is the same in this one."""
        same = zip(older.description.digests, self.description.digests, strict=False)
        for part, (then, now) in enumerate(same):
            if then == now and part in older._here and part not in self._here:
                self.put(part, older._chunk(part))

    def kept(self) -> KeptState:
        """The complete state, to be given to others."""
        chunks = (self._chunk(part) for part in range(len(self.description.digests)))
        return KeptState(self.description, tuple((each.contributors, each.data) for each in chunks))

    def named(self) -> NamedState:
        """The complete named state. Raises MoshgridError when its small values cannot be read."""
        assert isinstance(self.description, NamedDescription)
        return named_in(self.description, self._buffer)

    def arrays(self, config: RunConfig) -> list[npt.NDArray[Any]]:
        """The complete sealed average as arrays of the run. Raises CodecError for what no encoder wrote."""
        assert isinstance(self.description, Description)
        arrays = config.schema.empty()
        flat = FlatArrays(config.arranged(arrays), np.dtype(self.description.dtype))
        for part, span in enumerate(self.description.parts):
            data = self._chunks[part].data
            flat.write(span.start, span.codec.decode(data, span.stop - span.start, flat.dtype))
        return arrays

    def vector(self) -> npt.NDArray[Any]:
        """The complete sealed average as one vector, for who does not know the run's arrays."""
        assert isinstance(self.description, Description)
        vector = np.empty(self.description.elements, self.description.dtype)
        for part, span in enumerate(self.description.parts):
            data = self._chunks[part].data
            vector[span.start : span.stop] = span.codec.decode(data, span.stop - span.start, vector.dtype)
        return vector

    def _chunk(self, part: int) -> Chunk:
        if isinstance(self.description, NamedDescription):
            start = self._starts[part]
            return Chunk(1, memoryview(self._buffer)[start : start + self.description.lengths[part]])  # type: ignore[arg-type]
        return self._chunks[part]
