"""Where peers say they are, in their own hand: the signed peer records that this node passes on."""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache

from moshgrid.dht.wire import PeerEntry, entry_of
from moshgrid.p2p.errors import RecordRejected
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.peer_record import make_peer_record, open_peer_record

__all__ = ["PeerRecords"]

_MAX_PEERS = 4096

_open = lru_cache(maxsize=4096)(open_peer_record)


class PeerRecords:
    """The newest record of each peer, this one's too."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._records: OrderedDict[PeerId, tuple[int, PeerEntry]] = OrderedDict()
        self._own: tuple[tuple[str, ...], PeerEntry] | None = None

    def me(self) -> PeerEntry:
        """What this peer says of itself."""
        addrs = self._host.network.addrs
        if self._own is None or self._own[0] != addrs:
            record = make_peer_record(self._host.identity, addrs, self._host.clock.wall_ms())
            self._own = addrs, entry_of(self._host.peer_id, (), record)
        return self._own[1]

    def entry(self, peer: PeerId) -> PeerEntry:
        """What is passed on about ``peer``; without addresses when it never signed any."""
        if peer == self._host.peer_id:
            return self.me()
        held = self._records.get(peer)
        return held[1] if held is not None else entry_of(peer, ())

    def has(self, peer: PeerId) -> bool:
        """True when others can be told where ``peer`` is."""
        return peer in self._records

    def learn(self, entry: PeerEntry) -> bool:
        """Takes over what ``entry`` says in the peer's own hand; False when it is not in it."""
        named = entry.peer
        if not entry.record or named == self._host.peer_id:
            return False
        held = self._records.get(named)
        if held is not None and held[1].record == entry.record:
            return True
        try:
            peer, seq, addrs = _open(entry.record)
        except RecordRejected:
            return False
        if peer != named:
            return False
        if held is None or seq > held[0]:
            self._records[peer] = seq, entry_of(peer, (), entry.record)
            self._records.move_to_end(peer)
            while len(self._records) > _MAX_PEERS:
                self._records.popitem(last=False)
            self._host.network.learn_addrs(peer, addrs, seq)
        return True
