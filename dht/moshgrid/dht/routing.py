"""The routing table: which peers are known, sorted into k-buckets by distance from this peer.

Rules (Maymounkov & Mazières 2002, §2.2): a peer enters only after it answered us; a bucket keeps its
old live peers, and a newcomer takes a place only when one of them stopped answering. A peer that was
lost is *suspect*: it is not given out or asked, but keeps its place until somebody needs it or it
failed often, so that it can be dialled again.

One address block may fill a bucket, or the table, only while nobody else wants the place.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Set
from dataclasses import dataclass

from moshgrid.dht.contact import Contact, Contacts
from moshgrid.dht.diversity import TABLE_PER_BLOCK, Crowd, Placing, crowded
from moshgrid.dht.keys import BITS, point_of_peer
from moshgrid.dht.nearness import LivePeers
from moshgrid.p2p.identity import PeerId

__all__ = ["Change", "RoutingTable"]

_FRESH_SECONDS = 60.0
_MAX_FAILURES = 5
_ONE_FAILURE_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Change:
    """What an answer changed: ``joined`` when the peer is live now and was not before; ``ping`` names
    the old peer that must be asked whether it still lives, because its bucket is full; ``removed``
    made room, because too many of its address block were there."""

    joined: bool
    ping: PeerId | None = None
    removed: PeerId | None = None


class RoutingTable:
    """Knows up to ``k`` peers for each shared-prefix length with ``own``, and ``k`` waiting ones."""

    def __init__(self, own: PeerId, k: int = 20, placing: Placing = lambda peer: None) -> None:
        self.own = own
        self.own_point = point_of_peer(own)
        self.k = k
        self._placing = placing
        self._looked_at: dict[int, float] = {}
        self._turned_away: dict[int, int] = {}
        """Buckets that forgot somebody for want of places, and after how many more lookups that counts no
        longer: the one under way, and one that met nobody who found no place."""
        self._blocks: Counter[str] = Counter()
        self._crowds: dict[str, None] = {}
        self._even: set[int] = set()
        """Full buckets that are known to be within the caps since the last change."""
        self._size = 0
        self._buckets: defaultdict[int, Contacts] = defaultdict(dict)
        self._waiting: defaultdict[int, Contacts] = defaultdict(dict)
        self._live = LivePeers(self.own_point, self._buckets)

    def __len__(self) -> int:
        """How many live peers there are."""
        return len(self._live)

    def answered(self, peer: PeerId, now: float) -> Change:
        """``peer`` answered a question of ours."""
        if peer == self.own:
            return Change(False)
        point = point_of_peer(peer)
        index = (point ^ self.own_point).bit_length()
        bucket, waiting = self._buckets[index], self._waiting[index]
        contact = bucket.get(peer)
        removed = None
        if contact is None:
            contact = waiting.pop(peer, None) or Contact(peer, point, now)
            contact.place = self._placing(peer)
            joined = True
            full = len(bucket) >= self.k and not self._replace_suspect(bucket)
            removed = self._crowded_out(index, contact) if full else self._over_table(contact)
            if removed is None and full:
                waiting[peer] = contact
                contact.answered_at = now
                if len(waiting) > self.k:
                    del waiting[next(iter(waiting))]
                    self._turned_away[index] = 2
                oldest = next(iter(bucket.values()))
                stale = now - oldest.answered_at > _FRESH_SECONDS
                return Change(False, oldest.peer if stale else None)
            if removed == peer:
                return Change(False)
            if removed is not None:
                self.remove(removed)
            self._enter(bucket, contact)
        else:
            if joined := contact.failures > 0:
                self._live.changed(index)
            bucket[peer] = bucket.pop(peer)  # last: most recently heard of
        contact.failures = 0
        contact.answered_at = now
        return Change(joined, removed=removed)

    def _crowded_out(self, index: int, newcomer: Contact) -> PeerId | None:
        """Who of a full bucket makes room, because its block has more than its share and ours has not."""
        if index in self._even:
            return None
        bucket, crowd = self._buckets[index], Crowd()
        if sum(crowd.admit(known.place) for known in bucket.values()) == len(bucket):
            self._even.add(index)
            return None
        if not crowd.admit(newcomer.place) or self._over_table(newcomer) == newcomer.peer:
            return None
        return next(crowded([(known.place, known.peer) for known in bucket.values()]), None)

    def _over_table(self, newcomer: Contact) -> PeerId | None:
        """Who has no place because its block fills its share of a table that others need."""
        mine = newcomer.place[0] if newcomer.place is not None else ""
        if mine and self._blocks[mine] >= TABLE_PER_BLOCK and self._size - self._blocks[mine] >= self.k:
            return newcomer.peer
        if not self._crowds:
            return None
        block = next(iter(self._crowds))
        if block == mine or self._size + 1 - self._blocks[block] < self.k:
            return None
        contacts = (c for bucket in self._buckets.values() for c in bucket.values())
        of_block = [c for c in contacts if c.place is not None and c.place[0] == block]
        return max(of_block, key=lambda c: c.point ^ self.own_point).peer

    def _enter(self, bucket: Contacts, contact: Contact) -> None:
        bucket[contact.peer] = contact
        self._count(contact, 1)

    def _leave(self, bucket: Contacts, peer: PeerId) -> None:
        if (contact := bucket.pop(peer, None)) is not None:
            self._count(contact, -1)

    def _count(self, contact: Contact, change: int) -> None:
        self._size += change
        index = (contact.point ^ self.own_point).bit_length()
        self._even.discard(index)
        self._live.changed(index)
        if contact.place is None:
            return
        block = contact.place[0]
        self._blocks[block] += change
        if self._blocks[block] > TABLE_PER_BLOCK:
            self._crowds[block] = None
        else:
            self._crowds.pop(block, None)
            if not self._blocks[block]:
                del self._blocks[block]

    def failed(self, peer: PeerId, now: float) -> PeerId | None:
        """``peer`` did not answer, or its last connection was lost; returns who took its place.

        Several questions that fail together are one failure.
        """
        bucket, waiting = self._places(peer)
        waiting.pop(peer, None)
        contact = bucket.get(peer)
        if contact is None or (contact.failures and now - contact.failed_at < _ONE_FAILURE_SECONDS):
            return None
        contact.failures += 1
        contact.failed_at = now
        self._live.changed((contact.point ^ self.own_point).bit_length())
        if waiting:
            self._leave(bucket, peer)
            for successor in reversed(tuple(waiting.values())):
                if self._over_table(successor) != successor.peer:
                    del waiting[successor.peer]
                    self._enter(bucket, successor)
                    return successor.peer
            self._enter(bucket, contact)
        if contact.failures >= _MAX_FAILURES:
            self._leave(bucket, peer)
        return None

    def remove(self, peer: PeerId) -> None:
        """``peer`` does not belong here, for example because it is of another network."""
        bucket, waiting = self._places(peer)
        self._leave(bucket, peer)
        waiting.pop(peer, None)

    def wants(self, peer: PeerId) -> bool:
        """True when ``peer`` would be taken in if it answered."""
        if peer == self.own:
            return False
        bucket, _ = self._places(peer)
        contact = bucket.get(peer)
        if contact is not None:
            return contact.failures > 0
        return len(bucket) < self.k or any(known.failures for known in bucket.values())

    def live_peers(self) -> list[PeerId]:
        """Every live peer, those heard of last at the end."""
        live = (c for bucket in self._buckets.values() for c in bucket.values() if not c.failures)
        return [contact.peer for contact in sorted(live, key=lambda contact: contact.answered_at)]

    def looked_at(self, point: int, now: float) -> None:
        """A lookup of ``point`` was done, which refreshed its bucket."""
        index = (point ^ self.own_point).bit_length()
        self._looked_at[index] = now
        if index in self._turned_away:
            self._turned_away[index] -= 1
            if not self._turned_away[index]:
                del self._turned_away[index]

    def stale_points(self, before: float, rng: random.Random) -> list[int]:
        """A random point in each bucket that no lookup has touched since ``before``.

        Only buckets as far as the nearest peer: nobody is known to be nearer.
        """
        indexes = [index for index, bucket in self._buckets.items() if bucket]
        return [
            self.own_point ^ (1 << (index - 1)) ^ rng.getrandbits(index - 1)
            for index in range(BITS, min(indexes, default=BITS + 1) - 1, -1)
            if self._looked_at.get(index, before - 1) < before
        ]

    def closest(self, point: int, count: int) -> list[PeerId]:
        """The live peers nearest to ``point``, nearest first."""
        return list(self._live.closest(point, count, {}).values())

    def candidates(self, point: int, count: int) -> list[PeerId]:
        """As ``closest``, with the peers that answered and wait for a place in a full bucket."""
        return list(self._live.closest(point, count, self._waiting).values())

    def unnamed(self, point: int, named: Set[int], reach: int) -> list[PeerId]:
        """Of the ``k`` live peers nearest to ``point`` those whose point prefixes are not ``named`` and lie
        within ``reach`` of that of ``point``, nearest first."""
        return self._live.unnamed(point, self.k, named, reach)

    def sees_all_near(self, point: int) -> bool:
        """True when no bucket is full that may hold one of the ``k`` nearest peers to ``point``.

        A bucket that is not full holds everybody of its range that was ever met.
        """
        middle, met = (point ^ self.own_point).bit_length(), 0
        sizes = {index: len(bucket) for index, bucket in self._buckets.items() if bucket}
        # The bucket of the point itself is nearest to it; then, all about as near, those nearer to us.
        inner = [index for index in sizes if index < middle]
        outer = [[index] for index in sorted(sizes) if index > middle]
        for group in ([middle], inner, *outer):
            if any(sizes.get(index, 0) >= self.k for index in group):
                return False
            met += sum(sizes.get(index, 0) for index in group)
            if met >= self.k:
                break
        return True

    def met_beside(self, point: int) -> tuple[int, int]:
        """How many peers of the bucket of ``point`` answered, and how wide its range is."""
        index = (point ^ self.own_point).bit_length()
        return len(self._buckets[index]) + len(self._waiting[index]), 1 << max(0, index - 1)

    def remembers_beside(self, point: int) -> bool:
        """True when the bucket of ``point`` was looked at and forgot nobody for want of places, or so long
        ago that a whole lookup there has met nobody else since."""
        index = (point ^ self.own_point).bit_length()
        return index in self._looked_at and index not in self._turned_away

    def is_waiting(self, peer: PeerId) -> bool:
        """True when the peer answered and its bucket has no place for it."""
        return peer in self._places(peer)[1]

    def nearer_than_own(self, point: int) -> int:
        """How many live peers are nearer to ``point`` than this one."""
        gap = self.own_point ^ point  # nearer are those that differ from this peer first where the point does
        return sum(len(self._live.of(at)) for at in self._live.filled() if gap >> (at - 1) & 1)

    def is_live(self, peer: PeerId) -> bool:
        """True when the peer is in the table and no suspect."""
        contact = self._places(peer)[0].get(peer)
        return contact is not None and not contact.failures

    def knows(self, peer: PeerId) -> bool:
        """True when the peer has a place in the table, suspect or not."""
        return peer in self._places(peer)[0]

    def _places(self, peer: PeerId) -> tuple[Contacts, Contacts]:
        index = (point_of_peer(peer) ^ self.own_point).bit_length()
        return self._buckets[index], self._waiting[index]

    def _replace_suspect(self, bucket: Contacts) -> bool:
        for known in bucket.values():
            if known.failures:
                self._leave(bucket, known.peer)
                return True
        return False
