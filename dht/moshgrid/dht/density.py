"""Density: how near the ``k`` nearest of a point usually are, and whether those of a key are too near.

Identities can be ground until they lie next to a key and fill its shortlist; then the ``k`` nearest are
far nearer than anywhere else. Such a key is stored and looked for in a *region* as well: near sixteen
points spread evenly as far out as ``6 k`` honest peers reach, so that whoever wants to crowd all of them
needs many times the identities. Those that crowd in on the key itself name nobody else, so the way to the
points beyond them leads past them. What is usual is the median over random points, which nobody can move
without as many identities as there are peers.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence

from moshgrid.dht.keys import BITS, point_of_peer
from moshgrid.p2p.identity import PeerId

__all__ = ["PER_POINT", "Density"]

PER_POINT = 8
"""How many peers hold a key near each point of its region."""
_POINTS = 16
_LEAST, _KEPT = 5, 32
_ABNORMAL = 2.5


class Density:
    """Learns from lookups of random points."""

    def __init__(self, k: int = 20) -> None:
        self._k = k
        self._seen: deque[int] = deque(maxlen=_KEPT)

    def saw(self, point: int, closest: Sequence[PeerId]) -> None:
        """A lookup of a point that nobody else could foresee ended with ``closest``."""
        if len(closest) >= self._k:
            self._seen.append(point_of_peer(closest[self._k - 1]) ^ point)

    @property
    def missing(self) -> int:
        """How many more such lookups it needs before it can tell."""
        return max(0, _LEAST - len(self._seen))

    def reach(self, count: int) -> int | None:
        """The distance within which ``count`` peers are expected; None while too little was seen."""
        if len(self._seen) < _LEAST:
            return None
        return int(statistics.median_low(self._seen)) * count // self._k

    def is_abnormal(self, point: int, closest: Sequence[PeerId]) -> bool:
        """True when the ``k`` nearest of ``point`` are far nearer than they should be.

        Two and a half times: with honest peers only, this happens to one key in some thousands.
        """
        count = min(len(closest), self._k)  # one less when whoever asks is among the nearest itself
        usual = self.reach(count)
        if usual is None or count < self._k - 1:
            return False
        return (point_of_peer(closest[count - 1]) ^ point) * _ABNORMAL < usual

    def region(self, point: int) -> list[int]:
        """The points near which a crowded key is held too: the same for everybody, nearly."""
        wide = self.reach(6 * self._k)
        if wide is None:
            return []
        wide = min(wide, 1 << BITS)
        step = 1 << max(0, wide.bit_length() - _POINTS.bit_length())  # equal for readers and writers
        return [point ^ (number * step) for number in range(_POINTS)]

    def crowd(self) -> int:
        """How far from a crowded key its crowd is to be passed over."""
        return self.reach(3 * self._k // 2) or 0
