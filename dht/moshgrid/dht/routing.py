"""The routing table: which peers are known, sorted into k-buckets by distance from this peer.

Rules (Maymounkov & Mazières 2002, §2.2): a peer enters only after it answered us; a bucket keeps its
old live peers, and a newcomer takes a place only when one of them stopped answering. A peer that was
lost is *suspect*: it is not given out or asked, but keeps its place until somebody needs it or it
failed often, so that it can be dialled again.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from moshgrid.dht.keys import point_of_peer
from moshgrid.p2p.identity import PeerId

__all__ = ["Change", "RoutingTable"]

_FRESH_SECONDS = 60.0
_MAX_FAILURES = 5
_ONE_FAILURE_SECONDS = 0.3


@dataclass(slots=True)
class _Contact:
    peer: PeerId
    point: int
    answered_at: float
    failures: int = 0
    failed_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Change:
    """What an answer changed: ``joined`` when the peer is live now and was not before; ``ping`` names
    the old peer that must be asked whether it still lives, because its bucket is full."""

    joined: bool
    ping: PeerId | None = None


class RoutingTable:
    """Knows up to ``k`` peers for each shared-prefix length with ``own``, and ``k`` waiting ones."""

    def __init__(self, own: PeerId, k: int = 20) -> None:
        self.own = own
        self.own_point = point_of_peer(own)
        self.k = k
        self._buckets: defaultdict[int, dict[PeerId, _Contact]] = defaultdict(dict)
        self._waiting: defaultdict[int, dict[PeerId, _Contact]] = defaultdict(dict)

    def __len__(self) -> int:
        """How many live peers there are."""
        return sum(1 for _ in self._live())

    def answered(self, peer: PeerId, now: float) -> Change:
        """``peer`` answered a question of ours."""
        if peer == self.own:
            return Change(False)
        point = point_of_peer(peer)
        index = (point ^ self.own_point).bit_length()
        bucket, waiting = self._buckets[index], self._waiting[index]
        contact = bucket.pop(peer, None)
        if contact is None:
            contact = waiting.pop(peer, None) or _Contact(peer, point, now)
            joined = True
            if len(bucket) >= self.k and not self._replace_suspect(bucket):
                waiting[peer] = contact
                contact.answered_at = now
                if len(waiting) > self.k:
                    del waiting[next(iter(waiting))]
                oldest = next(iter(bucket.values()))
                stale = now - oldest.answered_at > _FRESH_SECONDS
                return Change(False, oldest.peer if stale else None)
        else:
            joined = contact.failures > 0
        contact.failures = 0
        contact.answered_at = now
        bucket[peer] = contact  # last: most recently heard of
        return Change(joined)

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
        if waiting:
            del bucket[peer]
            newest, successor = waiting.popitem()
            bucket[newest] = successor
            return newest
        if contact.failures >= _MAX_FAILURES:
            del bucket[peer]
        return None

    def remove(self, peer: PeerId) -> None:
        """``peer`` does not belong here, for example because it is of another network."""
        for place in self._places(peer):
            place.pop(peer, None)

    def wants(self, peer: PeerId) -> bool:
        """True when ``peer`` would be taken in if it answered."""
        if peer == self.own:
            return False
        bucket, _ = self._places(peer)
        contact = bucket.get(peer)
        if contact is not None:
            return contact.failures > 0
        return len(bucket) < self.k or any(known.failures for known in bucket.values())

    def closest(self, point: int, count: int) -> list[PeerId]:
        """The live peers nearest to ``point``, nearest first."""
        nearest = heapq.nsmallest(count, self._live(), key=lambda contact: contact.point ^ point)
        return [contact.peer for contact in nearest]

    def nearer_than_own(self, point: int) -> int:
        """How many live peers are nearer to ``point`` than this one."""
        own = self.own_point ^ point
        return sum(1 for contact in self._live() if contact.point ^ point < own)

    def is_live(self, peer: PeerId) -> bool:
        """True when the peer is in the table and no suspect."""
        contact = self._places(peer)[0].get(peer)
        return contact is not None and not contact.failures

    def knows(self, peer: PeerId) -> bool:
        """True when the peer has a place in the table, suspect or not."""
        return peer in self._places(peer)[0]

    def _live(self) -> Iterator[_Contact]:
        return (c for bucket in self._buckets.values() for c in bucket.values() if not c.failures)

    def _places(self, peer: PeerId) -> tuple[dict[PeerId, _Contact], dict[PeerId, _Contact]]:
        index = (point_of_peer(peer) ^ self.own_point).bit_length()
        return self._buckets[index], self._waiting[index]

    @staticmethod
    def _replace_suspect(bucket: dict[PeerId, _Contact]) -> bool:
        for known in bucket.values():
            if known.failures:
                del bucket[known.peer]
                return True
        return False
