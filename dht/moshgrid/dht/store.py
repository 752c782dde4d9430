"""What one peer holds for others: the newest record per key and subkey, within limits.

Rules: a record replaces another by the order of ``record.supersedes`` alone, so the order of arrival
does not matter; a seq below the highest one ever taken for its subkey is never served again, not after
a deletion, an expiry or an eviction (the *floor*, kept until everything below it must have expired);
envelopes are kept verbatim. Time is an argument.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from moshgrid.dht.diversity import Place
from moshgrid.dht.limits import Limits
from moshgrid.dht.record import MAX_TTL_MS, SignedRecord, check_times
from moshgrid.dht.sources import Slot, Sources
from moshgrid.p2p.errors import RecordRejected
from moshgrid.p2p.identity import PeerId

__all__ = ["Put", "RecordStore"]


class Put(Enum):
    """What a store did with a record that it did not refuse."""

    STORED = "stored"
    HELD = "held"
    """The same bytes were there already."""
    REPLACED_RIVAL = "replaced_rival"
    """Stored, in place of another payload that the author signed under the same seq."""


@dataclass(slots=True)
class _Usage:
    records: int = 0
    size: int = 0


class RecordStore:
    """Holds verified records. ``own`` is exempt from the per-author quotas, ``secret`` orders evictions."""

    def __init__(self, own: PeerId, limits: Limits | None = None, secret: bytes = b"") -> None:
        self._own = own
        self._limits = limits or Limits()
        self._secret = secret
        self._records: dict[bytes, dict[bytes, SignedRecord]] = {}
        self._usage: dict[PeerId, _Usage] = {}
        self._sources = Sources(self._limits)
        self._floors: dict[Slot, tuple[int, bytes]] = {}
        self._floor_ranges: dict[Slot, str] = {}
        self._floors_of: Counter[str] = Counter()
        self._expiries: list[tuple[int, Slot]] = []
        self._lapses: list[tuple[int, Slot]] = []
        self._ranks: list[tuple[bytes, Slot]] = []
        self._put_at: dict[Slot, int] = {}
        self._promised: dict[Slot, bytes] = {}
        self._count = 0
        self._stamps: dict[Slot, int] = {}
        self._last_stamp = 0
        self.size = 0
        """Bytes of the envelopes held."""

    def __len__(self) -> int:
        return self._count

    def put(self, record: SignedRecord, now_ms: int, place: Place | None = None) -> Put:
        """Takes a record that came from ``place``; None: from here, or from where no quota holds.

        Raises RecordRejected: the time codes, OLD_SEQ, EQUIVOCATION, QUOTA or FULL.
        """
        check_times(record, now_ms)
        self.expire(now_ms)
        slot = (record.key, record.subkey)
        held = self._held(slot)
        if held is not None and held.payload_hash == record.payload_hash:
            self._put_at[slot] = now_ms
            return Put.HELD
        rival = self._check_floor(slot, record)
        if record.author == self._own:
            place = None
        if slot not in self._floors:
            self._check_floors(place)
        evicted = self._check_quota(record, held, place)
        if held is not None:
            self._drop(slot)
        if evicted is not None:
            self._drop(evicted)
        self._make_room(record)
        self._add(slot, record, place)
        self._put_at[slot] = now_ms
        self._last_stamp = self._stamps[slot] = max(self._last_stamp + 1, now_ms)
        return Put.REPLACED_RIVAL if rival else Put.STORED

    def get(self, key: bytes, now_ms: int) -> list[SignedRecord]:
        """The live records of a key, tombstones too, by ascending subkey."""
        self.expire(now_ms)
        held = self._records.get(key, {})
        return [held[subkey] for subkey in sorted(held)]

    def changes(self, key: bytes, since: int, now_ms: int) -> tuple[list[SignedRecord], int]:
        """As ``get``, less what was stored up to the stamp ``since``; and the newest stamp there is.

        Stamps grow over restarts too, as long as the clock does.
        """
        held = self.get(key, now_ms)
        return [r for r in held if self._stamps[key, r.subkey] > since], self._last_stamp

    def find(self, key: bytes, subkey: bytes, now_ms: int) -> SignedRecord | None:
        """The live record in one slot, or None."""
        self.expire(now_ms)
        return self._held((key, subkey))

    def put_at(self, record: SignedRecord) -> int:
        """When somebody last put what is held in this record's slot; 0 when nothing is."""
        return self._put_at.get((record.key, record.subkey), 0)

    def promise(self, record: SignedRecord, prefixes: bytes) -> None:
        """The author of what is held brings it to the peers of these point prefixes, too."""
        slot = (record.key, record.subkey)
        if self._held(slot) == record:
            self._promised[slot] = prefixes

    def promised(self, record: SignedRecord) -> bytes:
        """To whom the author said that it brings it; empty when it came from somebody else."""
        return self._promised.get((record.key, record.subkey), b"")

    def all_keys(self) -> Iterator[bytes]:
        """The keys that have records; some may have expired since the last call that took a time."""
        return iter(tuple(self._records))

    def expire(self, now_ms: int) -> None:
        """Forgets what has expired, and floors that can no longer matter."""
        while self._expiries and self._expiries[0][0] <= now_ms:
            _, slot = heapq.heappop(self._expiries)
            held = self._held(slot)
            if held is not None and held.expires <= now_ms:
                self._drop(slot)
        while self._lapses and self._lapses[0][0] <= now_ms:
            _, slot = heapq.heappop(self._lapses)
            floor = self._floors.get(slot)
            if floor is not None and floor[0] + MAX_TTL_MS <= now_ms:
                del self._floors[slot]
                self._count_floor(slot, None)

    def _held(self, slot: Slot) -> SignedRecord | None:
        return self._records.get(slot[0], {}).get(slot[1])

    def _check_floor(self, slot: Slot, record: SignedRecord) -> bool:
        """True when the record replaces a rival; raises when it is below the floor."""
        floor = self._floors.get(slot)
        if floor is None:
            return False
        seq, payload_hash = floor
        if record.seq < seq:
            raise RecordRejected("OLD_SEQ", f"seq {record.seq}, but {seq} was here")
        if record.seq == seq and record.payload_hash > payload_hash:
            raise RecordRejected("EQUIVOCATION", f"another payload was signed under seq {seq}")
        return record.seq == seq and record.payload_hash < payload_hash

    def _check_floors(self, place: Place | None) -> None:
        most, taken = self._limits.floors, len(self._floors)
        if taken >= most:
            raise RecordRejected("QUOTA", "this storer remembers as many subkeys as it can")
        if place is not None and 2 * taken >= most and 16 * self._floors_of[place[1]] >= most:
            raise RecordRejected(
                "QUOTA", f"{place[1]} has its share of the subkeys that this storer remembers"
            )

    def _count_floor(self, slot: Slot, place: Place | None) -> None:
        """The floor of ``slot`` was made by a record from ``place``, or lapsed."""
        if (before := self._floor_ranges.pop(slot, None)) is not None:
            self._floors_of[before] -= 1
            if not self._floors_of[before]:
                del self._floors_of[before]
        if place is not None:
            self._floor_ranges[slot] = place[1]
            self._floors_of[place[1]] += 1

    def _check_quota(
        self, record: SignedRecord, held: SignedRecord | None, place: Place | None
    ) -> Slot | None:
        """Raises when the quotas do not allow the record; returns the slot that has to make room for it."""
        if record.author == self._own:
            return None
        limits = self._limits
        usage = self._usage.get(record.author, _Usage())
        if held is None and usage.records >= limits.records_per_author:
            raise RecordRejected("QUOTA", f"the author has {limits.records_per_author} records here")
        size = len(record.raw) - (len(held.raw) if held is not None else 0)
        if usage.size + size > limits.bytes_per_author:
            raise RecordRejected("QUOTA", f"the author would have {usage.size + size} bytes here")
        under = self._records.get(record.key, {})
        crowded = 2 * len(under) >= limits.records_per_key
        full = 2 * (self.size + size) > limits.total_bytes
        self._sources.check((record.key, record.subkey), place, len(record.raw), crowded=crowded, full=full)
        if held is not None or len(under) < limits.records_per_key:
            return None
        others = [subkey for subkey, other in under.items() if other.author != self._own]
        evicted = self._sources.greediest_under(record.key, others, place)
        if evicted is None:
            raise RecordRejected("FULL", f"the key has {limits.records_per_key} records")
        return evicted

    def _make_room(self, record: SignedRecord) -> None:
        """Evicts from the greediest range, else by a keyed hash, so that no author can aim; then the new
        record competes too."""
        if record.author == self._own:
            return
        if self.size + len(record.raw) <= self._limits.total_bytes:
            return
        rank = self._rank((record.key, record.subkey))
        while self.size + len(record.raw) > self._limits.total_bytes:
            if (greedy := self._sources.greediest()) is not None:
                self._drop(greedy)
                continue
            if not self._ranks or self._ranks[0][0] >= rank:
                raise RecordRejected("QUOTA", "this storer is full")
            self._drop(heapq.heappop(self._ranks)[1])

    def _rank(self, slot: Slot) -> bytes:
        return hashlib.blake2b(slot[0] + b"\0" + slot[1], key=self._secret, digest_size=8).digest()

    def _add(self, slot: Slot, record: SignedRecord, place: Place | None) -> None:
        self._records.setdefault(slot[0], {})[slot[1]] = record
        usage = self._usage.setdefault(record.author, _Usage())
        usage.records += 1
        usage.size += len(record.raw)
        self.size += len(record.raw)
        self._count += 1
        self._floors[slot] = (record.seq, record.payload_hash)
        self._count_floor(slot, place)
        heapq.heappush(self._expiries, (record.expires, slot))
        heapq.heappush(self._lapses, (record.seq + MAX_TTL_MS, slot))
        if record.author != self._own:
            rank = self._rank(slot)
            heapq.heappush(self._ranks, (rank, slot))
            self._sources.add(slot, place, len(record.raw), rank)
        heaps = max(len(self._expiries), len(self._ranks))
        if heaps > 64 + 2 * self._count or len(self._lapses) > 64 + 2 * len(self._floors):
            self._rebuild_heaps()

    def _drop(self, slot: Slot) -> None:
        held = self._records.get(slot[0], {}).pop(slot[1], None)
        if held is None:
            return
        if not self._records[slot[0]]:
            del self._records[slot[0]]
        self._put_at.pop(slot, None)
        self._promised.pop(slot, None)
        self._stamps.pop(slot, None)
        self._sources.drop(slot)
        usage = self._usage[held.author]
        usage.records -= 1
        usage.size -= len(held.raw)
        self.size -= len(held.raw)
        self._count -= 1
        if not usage.records:
            del self._usage[held.author]

    def _rebuild_heaps(self) -> None:
        """Heap entries of replaced records are dropped lazily; this bounds how many there are."""
        held = [
            ((record.key, record.subkey), record)
            for records in self._records.values()
            for record in records.values()
        ]
        self._expiries = [(record.expires, slot) for slot, record in held]
        self._ranks = [(self._rank(slot), slot) for slot, record in held if record.author != self._own]
        self._lapses = [(seq + MAX_TTL_MS, slot) for slot, (seq, _) in self._floors.items()]
        heapq.heapify(self._expiries)
        heapq.heapify(self._lapses)
        heapq.heapify(self._ranks)
