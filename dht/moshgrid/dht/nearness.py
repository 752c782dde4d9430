"""Nearness: in which order buckets, and the peers of one, lie from a point; which live peers are nearest."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

from moshgrid.dht.contact import Contacts
from moshgrid.dht.keys import BITS, PREFIX_BITS
from moshgrid.p2p.identity import PeerId

__all__ = ["LivePeers", "nearest_first", "sort_by_distance"]


def nearest_first(gap: int, ascending: Sequence[int]) -> Iterator[int]:
    """The buckets of a table in the order of their distance from a point that is ``gap`` away from its owner.

    All of one bucket are nearer to the point than all of the next: their distances differ from the owner's
    in the bucket's bit and in lower ones only. So nearer than the owner are those at whose bit it differs
    from the point, the widest first; the others follow, the widest last.
    """
    for at in reversed(ascending):
        if gap >> (at - 1) & 1:
            yield at
    for at in ascending:
        if not gap >> (at - 1) & 1:
            yield at


def sort_by_distance(points: Iterable[int], point: int) -> list[int]:
    """``points``, the nearest to ``point`` first."""
    return sorted(points, key=point.__xor__)


class LivePeers:
    """Who of a table's ``buckets`` is live, by point; kept until ``changed`` is called for the bucket."""

    def __init__(self, own_point: int, buckets: Mapping[int, Contacts]) -> None:
        self._own_point = own_point
        self._buckets = buckets
        self._filled: list[int] | None = None
        self._live: dict[int, dict[int, PeerId]] = {}
        self._prefixes: list[int] | None = None

    def __len__(self) -> int:
        return sum(len(self.of(at)) for at in self.filled())

    def changed(self, at: int) -> None:
        """Somebody entered or left bucket ``at``, failed, or came back."""
        self._filled = self._prefixes = None
        self._live.pop(at, None)

    def filled(self) -> list[int]:
        """The buckets that hold anybody, live or not, ascending."""
        if self._filled is None:
            self._filled = sorted(at for at, bucket in self._buckets.items() if bucket)
        return self._filled

    def of(self, at: int) -> dict[int, PeerId]:
        """The live peers of one bucket."""
        if (live := self._live.get(at)) is None:
            contacts = self._buckets[at].values()
            live = self._live[at] = {known.point: known.peer for known in contacts if not known.failures}
        return live

    def closest(self, point: int, count: int, waiting: Mapping[int, Contacts]) -> dict[int, PeerId]:
        """The ``count`` nearest to ``point``, nearest first; those of ``waiting`` count as live."""
        filled = self.filled()
        if waiting:
            filled = sorted({*filled, *(at for at, contacts in waiting.items() if contacts)})
        found: dict[int, PeerId] = {}
        for index in nearest_first(self._own_point ^ point, filled):
            here = self.of(index)
            if more := waiting.get(index):
                here = here | {contact.point: contact.peer for contact in more.values()}
            for at in sort_by_distance(here, point):
                if len(found) == count:
                    return found
                found[at] = here[at]
        return found

    def unnamed(self, point: int, count: int, named: Set[int], reach: int) -> list[PeerId]:
        """Of the ``count`` nearest to ``point`` those whose prefixes are not ``named`` and lie within
        ``reach`` of that of ``point``, nearest first.

        Usually nobody, which is told without looking for the nearest.
        """
        near, wide = point >> (BITS - PREFIX_BITS), reach.bit_length()
        first = near >> wide << wide  # whoever is within reach differs in the last bits only
        prefixes = self._all_prefixes()
        around = prefixes[bisect_left(prefixes, first) : bisect_left(prefixes, first + (1 << wide))]
        if not any(at ^ near <= reach for at in around if at not in named):
            return []
        nearest = ((at >> (BITS - PREFIX_BITS), peer) for at, peer in self.closest(point, count, {}).items())
        return [peer for at, peer in nearest if at not in named and at ^ near <= reach]

    def _all_prefixes(self) -> list[int]:
        if self._prefixes is None:
            points = (point for at in self.filled() for point in self.of(at))
            self._prefixes = sorted(point >> (BITS - PREFIX_BITS) for point in points)
        return self._prefixes
