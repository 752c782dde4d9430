"""Handing over: giving a peer that joined nearer to a key the records that it should hold."""

from __future__ import annotations

import trio

from moshgrid.dht.asking import Asker
from moshgrid.dht.keys import point_of_peer
from moshgrid.dht.routing import RoutingTable
from moshgrid.dht.shortlists import Shortlists
from moshgrid.dht.store import RecordStore
from moshgrid.dht.writing import PUSHERS, Writing
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId

__all__ = ["HandingOver"]

_MOST_BYTES = 1024 * 1024


class HandingOver:
    """Two newcomers at a time."""

    def __init__(
        self,
        host: Host,
        table: RoutingTable,
        store: RecordStore,
        asker: Asker,
        shortlists: Shortlists,
        writing: Writing,
        nursery: trio.Nursery,
    ) -> None:
        self._host = host
        self._table = table
        self._store = store
        self._shortlists = shortlists
        self._writing = writing
        self._at_once = trio.Semaphore(2)
        asker.on_joined.append(lambda peer: nursery.start_soon(self._hand_over, peer))

    async def _hand_over(self, peer: PeerId) -> None:
        """Own records, and those that this peer is among the nearest to."""
        async with self._at_once:
            now_ms = self._host.clock.wall_ms()
            envelopes: list[bytes] = []
            for key in self._store.all_keys():
                held = self._store.get(key, now_ms)
                point = self._shortlists.point(key)
                nearest = self._table.closest(point, self._table.k)
                if not held or peer not in nearest:
                    continue
                own = self._table.own_point ^ point
                nearer = sum(1 for other in nearest if other != peer and point_of_peer(other) ^ point < own)
                mine = self._host.peer_id
                envelopes += [r.raw for r in held if nearer < PUSHERS or r.author == mine]
                if sum(map(len, envelopes)) > _MOST_BYTES:
                    break
                await trio.lowlevel.checkpoint()
            await self._writing.send_quietly(peer, envelopes)
