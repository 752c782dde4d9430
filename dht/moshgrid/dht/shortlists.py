"""Shortlists: which peers hold a key, remembered for half a minute so that a lookup is rarely needed."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from moshgrid.dht.asking import Asker
from moshgrid.dht.joining import Joining
from moshgrid.dht.keys import point_of_key, point_of_peer
from moshgrid.dht.routing import RoutingTable
from moshgrid.p2p.identity import PeerId

__all__ = ["Shortlists"]

_SECONDS = 30.0
_MAX_KEPT = 4096
_TRUSTED = 1.5
"""How many times as far as usual, or as near, the nearest peers that the table knows may reach, and how many
times as many there may be in their range as it has met; storers themselves tell of the few that it lacks."""


@dataclass(slots=True)
class _Shortlist:
    point: int
    peers: list[PeerId]
    until: float


class Shortlists:
    """The ``k`` live peers nearest to a key, nearest first; this peer is not among them.

    More when the neighbourhood of the key is abnormal: those of its region.
    """

    def __init__(
        self, network: bytes, table: RoutingTable, asker: Asker, joining: Joining, client: bool = False
    ) -> None:
        self._network = network
        self._table = table
        self._asker = asker
        self._joining = joining
        self._client = client
        self._kept: dict[bytes, _Shortlist] = {}
        self._finding: dict[bytes, trio.Event] = {}
        asker.on_joined.append(self._joined)
        asker.on_left.append(self._left)

    def point(self, key: bytes) -> int:
        """Where ``key`` lies."""
        return point_of_key(self._network, key)

    def known(self, key: bytes) -> list[PeerId] | None:
        """The shortlist when it can be told without asking anybody, else None.

        A table that is not full and has asked its neighbours knows the whole network.
        """
        if self._joining.ready.is_set() and len(self._table) < self._table.k:
            return self._table.closest(self.point(key), self._table.k)
        kept = self._kept.get(key)
        if kept is None or kept.until <= trio.current_time():
            return None
        return list(kept.peers)

    def guess(self, key: bytes) -> list[PeerId] | None:
        """The shortlist and some farther peers, for who finds out on the way whom it lacks; None when the
        table knows too little of the neighbourhood of the key."""
        if (known := self.known(key)) is not None:
            return known
        point, k = self.point(key), self._table.k
        if not self._joining.ready.is_set():
            return None
        usual = self._asker.density.reach(k)
        candidates = self._table.candidates(point, 2 * k)
        if self._table.sees_all_near(point):
            return candidates
        if usual is None or len(candidates) < k:
            return None
        if self.small_range(key) is not None and self._table.remembers_beside(point):
            return None if self.is_crowded(key, candidates[:k]) else candidates
        met, width = self._table.met_beside(point)
        if met * _TRUSTED * usual < k * width:
            return None  # it has met too few of that range: if they are near, somebody placed them there
        reach = point_of_peer(candidates[k - 1]) ^ point
        return candidates if usual / _TRUSTED <= reach <= usual * _TRUSTED else None

    def small_range(self, key: bytes) -> int | None:
        """The number of the bucket that ``key`` lies in, when a lookup or two there meet about all of its
        range, so that ``guess`` tells the other keys of that range; None when they are too many."""
        point, usual = self.point(key), self._asker.density.reach(self._table.k)
        _, width = self._table.met_beside(point)
        if usual is None or self._table.k * width > 2 * self._table.k * _TRUSTED * usual:
            return None
        return width.bit_length()

    def probable(self, key: bytes, nearest: list[PeerId]) -> list[PeerId]:
        """Those of the ``nearest`` known that lie where storers usually do; none when these are too few."""
        if self.known(key) is not None:
            return nearest
        point, usual = self.point(key), self._asker.density.reach(self._table.k) or 0
        near = [peer for peer in nearest if point_of_peer(peer) ^ point <= usual]
        return near if 2 * len(near) >= self._table.k else []

    async def closest(self, key: bytes) -> list[PeerId]:
        """The shortlist, by a lookup when none is known."""
        while (known := self.known(key)) is None:
            finding = self._finding.get(key)
            if finding is not None:
                await finding.wait()
                continue
            finding = self._finding[key] = trio.Event()
            try:
                point = self.point(key)
                done = await self._asker.find_closest(point)
                closest = list(done.closest)
                if self.is_crowded(key, closest):
                    region = await self._asker.find_region(point)
                    closest += [peer for peer in region if peer not in closest]
                if closest and done.complete:
                    self.keep(key, closest)
                return closest
            finally:
                del self._finding[key]
                finding.set()
        return known

    def is_mine(self, key: bytes, others: list[PeerId]) -> bool:
        """True when this peer is one of the ``k`` nearest to ``key`` too, and holds records."""
        if self._client:
            return False
        if len(others) < self._table.k:
            return True
        point = self.point(key)
        return self._table.own_point ^ point < point_of_peer(others[self._table.k - 1]) ^ point

    def is_crowded(self, key: bytes, closest: list[PeerId]) -> bool:
        """True when ``closest`` lie too near ``key``: it is held in its region as well."""
        return self._asker.density.is_abnormal(self.point(key), closest)

    def forget(self, key: bytes) -> None:
        """The next caller looks afresh."""
        self._kept.pop(key, None)

    def keep(self, key: bytes, peers: list[PeerId]) -> None:
        """These were found to be the shortlist; those that left meanwhile are not kept."""
        peers = [peer for peer in peers if self._table.is_live(peer) or self._table.is_waiting(peer)]
        self._kept.pop(key, None)
        now = trio.current_time()
        self._kept[key] = _Shortlist(self.point(key), peers, now + _SECONDS)
        while len(self._kept) > _MAX_KEPT or next(iter(self._kept.values())).until <= now:
            del self._kept[next(iter(self._kept))]

    def _joined(self, peer: PeerId) -> None:
        for kept in self._kept.values():
            if peer not in kept.peers:
                kept.peers.append(peer)
                kept.peers.sort(key=lambda known: point_of_peer(known) ^ kept.point)
                del kept.peers[max(self._table.k, len(kept.peers) - 1) :]

    def _left(self, peer: PeerId) -> None:
        for key, kept in list(self._kept.items()):
            if peer in kept.peers:
                kept.peers.remove(peer)
                if len(kept.peers) < self._table.k // 2:
                    del self._kept[key]
