"""Seen records: a reader never goes back to an older record than one it has seen.

Identities next to a key can serve what an author has long replaced, and its signature is good. Whoever saw
the newer one keeps it until it expires, and says so to those that serve less.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Collection, Iterable

from moshgrid.dht.keys import point_of_peer
from moshgrid.dht.record import SignedRecord, supersedes
from moshgrid.p2p.identity import PeerId

__all__ = ["SeenRecords", "witnesses"]

_MAX_RECORDS = 4096
_WITNESSES = 2


class SeenRecords:
    """The newest record of each slot that was read, those read last. Times are wall-clock milliseconds."""

    def __init__(self, most: int = _MAX_RECORDS) -> None:
        self._most = most
        self._by_key: OrderedDict[bytes, dict[bytes, SignedRecord]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def of(self, key: bytes, now_ms: int) -> list[SignedRecord]:
        """What was seen under ``key`` and has not expired."""
        return [record for record in self._by_key.get(key, {}).values() if record.expires > now_ms]

    def saw(self, key: bytes, records: Iterable[SignedRecord], now_ms: int) -> None:
        """``records`` of ``key`` were read; older ones of their slots are not kept."""
        held = {record.subkey: record for record in self.of(key, now_ms)}
        self._count -= len(self._by_key.pop(key, {}))
        for record in records:
            old = held.get(record.subkey)
            if record.expires > now_ms and (old is None or supersedes(record, old)):
                held[record.subkey] = record
        if held:
            self._by_key[key] = held
            self._count += len(held)
        while self._count > self._most:
            _, oldest = self._by_key.popitem(last=False)
            self._count -= len(oldest)


def witnesses(
    point: int, known: Iterable[PeerId], asked: Collection[PeerId], count: int, rng: random.Random
) -> list[PeerId]:
    """Two of the ``count`` known peers nearest to ``point``, by chance, that were not asked.

    Three identities are cheaply ground to be the nearest of a key; to be all of those that are asked by
    chance takes most of the neighbourhood, which then is abnormal.
    """
    nearest = sorted(set(known), key=lambda peer: point_of_peer(peer) ^ point)[:count]
    others = [peer for peer in nearest if peer not in asked]
    return rng.sample(others, min(_WITNESSES, len(others)))
