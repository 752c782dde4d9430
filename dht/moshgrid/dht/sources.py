"""Sources: how much of a store each address block fills, and who of the greediest range makes room.

Identities cost nothing, so quotas by author bound nobody who makes many; addresses cost something. A
record counts for the place of the connection that brought it. Like all caps on addresses these bind only
under contention, here where half of the room is taken: many honest volunteers sit behind one address,
and a holder that hands over a key brings what others signed.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass

from moshgrid.dht.diversity import Place
from moshgrid.dht.limits import Limits
from moshgrid.p2p.errors import RecordRejected

__all__ = ["Slot", "Sources"]

Slot = tuple[bytes, bytes]
"""Key and subkey."""


@dataclass(frozen=True, slots=True)
class _Entry:
    place: Place
    size: int
    rank: bytes


class Sources:
    """Counts what lies in each slot for its block and range. Records without a place are not counted."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._entries: dict[Slot, _Entry] = {}
        self._bytes: Counter[str] = Counter()
        self._subkeys: Counter[tuple[bytes, str]] = Counter()
        self._slots: Counter[str] = Counter()
        self._ranks: dict[str, list[tuple[bytes, Slot]]] = {}

    def check(self, slot: Slot, place: Place | None, size: int, *, crowded: bool, full: bool) -> None:
        """Raises RecordRejected when ``place`` has its share already: QUOTA of the store, FULL of the key, as
        a shard of that may have room.

        ``crowded``: half of the key's records are taken; ``full``: half of the store's bytes are.
        """
        if place is None:
            return
        limits, held = self._limits, self._entries.get(slot)
        mine = held is not None and held.place == place
        caps = (limits.bytes_per_block, limits.bytes_per_range)
        for name, most in zip(_names(place), caps, strict=True):
            if full and self._bytes[name] + size - (held.size if held is not None and mine else 0) > most:
                raise RecordRejected(
                    "QUOTA", f"{place[0]} and its neighbours fill their share of this storer"
                )
        counts = (limits.subkeys_per_block, limits.subkeys_per_range)
        for name, most in zip(_names(place), counts, strict=True):
            if crowded and not mine and self._subkeys[slot[0], name] >= most:
                raise RecordRejected("FULL", f"{place[0]} and its neighbours fill their share of the key")

    def add(self, slot: Slot, place: Place | None, size: int, rank: bytes) -> None:
        """Counts a record that was stored; ``rank`` is its place in the order of evictions."""
        if place is None:
            return
        entry = self._entries[slot] = _Entry(place, size, rank)
        self._count(slot, entry, 1)
        heap = self._ranks.setdefault(place[1], [])
        heapq.heappush(heap, (rank, slot))
        if len(heap) > 64 + 2 * self._slots[place[1]]:
            self._ranks[place[1]] = sorted({each for each in heap if self._is_in(place[1], each)})

    def drop(self, slot: Slot) -> None:
        """What lay in ``slot`` is gone."""
        if (entry := self._entries.pop(slot, None)) is not None:
            self._count(slot, entry, -1)
            if not self._slots[entry.place[1]]:
                self._ranks.pop(entry.place[1], None)

    def greediest(self) -> Slot | None:
        """The slot to give up first: of the range that is farthest over its share, if any is over."""
        used = max(self._ranks, key=lambda wide: self._bytes["in " + wide], default=None)
        if used is None or self._bytes["in " + used] <= self._limits.bytes_per_range:
            return None
        heap = self._ranks[used]
        while heap and not self._is_in(used, heap[0]):
            heapq.heappop(heap)
        return heapq.heappop(heap)[1] if heap else None

    def greediest_under(self, key: bytes, subkeys: list[bytes], place: Place | None) -> Slot | None:
        """The slot of a full key that makes room for a record from ``place``, if that lacks its share."""
        entries = {(key, subkey): self._entries.get((key, subkey)) for subkey in subkeys}
        ranges = Counter(entry.place[1] for entry in entries.values() if entry is not None)
        most, count = max(ranges.items(), key=lambda item: (item[1], item[0]), default=("", 0))
        share = self._limits.subkeys_per_range
        if count <= share or (place is not None and ranges[place[1]] >= share):
            return None
        return min((e.rank, slot) for slot, e in entries.items() if e is not None and e.place[1] == most)[1]

    def _is_in(self, wide: str, ranked: tuple[bytes, Slot]) -> bool:
        entry = self._entries.get(ranked[1])
        return entry is not None and entry.place[1] == wide

    def _count(self, slot: Slot, entry: _Entry, change: int) -> None:
        self._slots[entry.place[1]] += change
        if not self._slots[entry.place[1]]:
            del self._slots[entry.place[1]]
        for name in _names(entry.place):
            self._bytes[name] += change * entry.size
            self._subkeys[slot[0], name] += change
            if not self._bytes[name]:
                del self._bytes[name]
            if not self._subkeys[slot[0], name]:
                del self._subkeys[slot[0], name]


def _names(place: Place) -> tuple[str, str]:
    """A block and a range of one name, as all host names are, are two."""
    return place[0], "in " + place[1]
