"""Memory for encoded parts and frames that is used again as soon as nothing refers to it.

Fresh memory is what a round would pay most for: the kernel has to find and clear every page of it
(here 0.4 ms a megabyte, ten times what encoding that megabyte costs).
"""

from __future__ import annotations

import weakref
from collections import defaultdict

import numpy as np
import numpy.typing as npt

__all__ = ["PartMemory", "Payload"]

Payload = bytes | memoryview
"""Encoded values as they are kept and sent."""

_GRAIN = 64 * 1024
_Block = npt.NDArray[np.uint8]


class PartMemory:
    """Hands out buffers; one comes back by itself when the last view of it is gone. Thread-safe."""

    def __init__(self) -> None:
        self._free: defaultdict[int, list[_Block]] = defaultdict(list)
        self._lent: dict[int, tuple[weakref.ref[_Block], _Block]] = {}
        self._keep: dict[bytes, int] = {}
        self._spare = 0

    @property
    def spare(self) -> int:
        """Bytes kept for the next round."""
        return self._spare

    def keep(self, run: bytes, size: int) -> None:
        """Keeps up to ``size`` bytes of what comes back for that run; frees what is too much (0: all)."""
        self._keep[run] = size
        limit = sum(self._keep.values())
        for room, blocks in self._free.items():
            while blocks and self._spare > limit:
                blocks.pop()
                self._spare -= room

    def allocate(self, size: int) -> memoryview:
        """A writable buffer of ``size`` bytes with anything in it."""
        room = max(1, -(-size // _GRAIN)) * _GRAIN
        try:
            block = self._free[room].pop()
            self._spare -= room
        except IndexError:
            block = np.empty(room, np.uint8)
        # A memoryview holds on to the very array it was made of, and every array made from the
        # memoryview holds on to that: so this array lives as long as anybody can see the block.
        lent = block[:]
        ref = weakref.ref(lent, self._take_back)
        self._lent[id(ref)] = (ref, block)
        return memoryview(lent)[:size]  # type: ignore[arg-type]

    def _take_back(self, ref: weakref.ref[_Block]) -> None:
        _, block = self._lent.pop(id(ref))
        if self._spare + block.nbytes <= sum(self._keep.values()):
            self._free[block.nbytes].append(block)
            self._spare += block.nbytes
