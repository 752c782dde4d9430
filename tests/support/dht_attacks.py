"""Peers that lie, and identities ground to lie next to a point, for simulations of the DHT."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

from dht_simulation import FakeIdentity, Lie, Peer

from moshgrid.dht.keys import peer_bytes
from moshgrid.dht.wire import (
    Answer,
    FindNode,
    Found,
    GetRecords,
    PeerEntry,
    Ping,
    Pong,
    PutRecords,
    Query,
    Taken,
)
from moshgrid.p2p.identity import PeerId, peer_id_from_public_key

_PREFIX = bytes.fromhex("002408011220")


def some_lie(chance: random.Random) -> Lie:
    """Drops questions, hides what it holds, or sends garbage and names peers that are not there."""
    mode = chance.randrange(3)

    def lie(peer: Peer, asker: PeerId, query: Query) -> Answer | None:
        if isinstance(query, PutRecords):
            return Taken([b""] * len(query.records))
        if mode == 0:
            return None
        if mode == 1 or not isinstance(query, GetRecords | FindNode):
            return Found()
        names = [peer_id_from_public_key(chance.randbytes(32)) for _ in range(20)]
        return Found([chance.randbytes(200)], [PeerEntry(peer_bytes(name)) for name in names])

    return lie


def ground(chance: random.Random, target: int, within: int, count: int) -> list[FakeIdentity]:
    """Identities nearer to ``target`` than ``within``."""
    found = []
    while len(found) < count:
        key = chance.randbytes(32)
        if int.from_bytes(hashlib.sha256(_PREFIX + key).digest()) ^ target < within:
            found.append(FakeIdentity(key))
    return found


def accomplices(names: list[PeerId], held: Callable[[], list[bytes]], chance: random.Random) -> Lie:
    """Claims to store what it does not, serves ``held``, and names none but ``names``."""

    def lie(peer: Peer, asker: PeerId, query: Query) -> Answer | None:
        if isinstance(query, PutRecords):
            return Taken([b""] * len(query.records))
        if isinstance(query, Ping):
            return Pong(PeerEntry(peer_bytes(peer.id)))
        closer = [PeerEntry(peer_bytes(name)) for name in chance.sample(names, min(len(names), 20))]
        return Found(held() if isinstance(query, GetRecords) else [], closer)

    return lie
