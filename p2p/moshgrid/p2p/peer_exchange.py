"""Peer exchange: a node that only lends its address still introduces those who come to it.

``/moshgrid/peers/1``: the asker says where it listens and hears which other peers are connected. So a
bare ``Node`` will do as the address to join through, whatever layers the others run.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.network import Network
from moshgrid.p2p.requests import Requests, Service

__all__ = ["PEERS", "AskPeers", "KnownPeer", "KnownPeers", "introduce", "serve_peer_exchange"]

_MAX_PEERS = 20
_Text = Annotated[str, msgspec.Meta(max_length=256)]
_Addrs = Annotated[tuple[_Text, ...], msgspec.Meta(max_length=16)]


class AskPeers(msgspec.Struct, frozen=True):
    """Who else is there? ``addrs`` is where the asker listens: full multiaddrs."""

    addrs: _Addrs


class KnownPeer(msgspec.Struct, frozen=True):
    """A connected peer and where it can be dialled."""

    peer: _Text
    addrs: _Addrs


class KnownPeers(msgspec.Struct, frozen=True):
    """At most 20 peers."""

    peers: Annotated[tuple[KnownPeer, ...], msgspec.Meta(max_length=_MAX_PEERS)]


PEERS: Service[AskPeers, KnownPeers] = Service(
    "/moshgrid/peers/1", AskPeers, KnownPeers, max_query=8192, max_answer=128 * 1024, concurrency=2
)


def serve_peer_exchange(network: Network, requests: Requests) -> None:
    """Introduces connected peers to each other from now on."""

    def answer(asker: PeerId, query: AskPeers) -> KnownPeers:
        network.learn_addrs(asker, query.addrs)
        known: list[KnownPeer] = []
        for peer in sorted(network.connected() - {asker}):
            addrs = network.addrs_of(peer)
            if addrs and len(known) < _MAX_PEERS:
                known.append(KnownPeer(peer, addrs[:16]))
        return KnownPeers(tuple(known))

    requests.serve(PEERS, answer)


async def introduce(network: Network, requests: Requests, peer: PeerId) -> list[PeerId]:
    """Tells ``peer`` where this one listens; returns the peers it knows, their addresses learned.

    Raises Unreachable or RemoteProtocolError.
    """
    answer = await requests.ask(peer, PEERS, AskPeers(network.addrs[:16]), 5.0)
    for known in answer.peers:
        network.learn_addrs(PeerId(known.peer), known.addrs)
    return [PeerId(known.peer) for known in answer.peers if known.peer != network.peer_id]
