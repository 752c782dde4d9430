"""Pushing: telling watchers what changed, one message at a time to each and to all at once."""

from __future__ import annotations

import trio

from moshgrid.dht.asking import Asker
from moshgrid.dht.record import SignedRecord
from moshgrid.dht.watchers import Watchers
from moshgrid.dht.wire import Push, Received
from moshgrid.p2p.errors import RemoteProtocolError, Unreachable
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId

__all__ = ["Pushing"]


class Pushing:
    """Empties what waits in ``Watchers``."""

    def __init__(
        self, host: Host, network: bytes, watchers: Watchers, asker: Asker, nursery: trio.Nursery
    ) -> None:
        self._host = host
        self._network = network
        self._watchers = watchers
        self._asker = asker
        self._nursery = nursery
        self._busy: set[PeerId] = set()
        asker.on_joined.append(self.kick)

    def kick(self, peer: PeerId) -> None:
        """Something may wait for ``peer``."""
        if peer not in self._busy:
            self._busy.add(peer)
            self._nursery.start_soon(self._push, peer)

    async def _push(self, peer: PeerId) -> None:
        # What comes while a message is under way waits and goes together in the next one.
        try:
            while True:
                records = self._watchers.take(peer, self._host.clock.wall_ms())
                split = self._watchers.take_split(peer)
                if not records and not split:
                    return
                if not await self._deliver(peer, records, split):
                    # It waits until the peer is heard of again, or its subscription lapses.
                    self._watchers.put_back(peer, records)
                    return
        finally:
            self._busy.discard(peer)

    async def _deliver(self, peer: PeerId, records: list[SignedRecord], split: list[bytes]) -> bool:
        push = Push(self._network, [record.raw for record in records], split)
        try:
            answer = await self._asker.ask(peer, push)
        except (Unreachable, RemoteProtocolError):
            return False
        for key in answer.unwatched if isinstance(answer, Received) else ():
            self._watchers.unsubscribe(peer, key)
        return True
