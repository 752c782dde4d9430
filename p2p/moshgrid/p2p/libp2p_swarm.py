"""py-libp2p's host, for the protocols that it brings: identify and ping now, relays later.

It never runs: connections are made, bounded and kept by us. It only knows of them, so that its protocols
can open streams. No plaintext, no mplex, no dialling on its own account, no resource manager whose circuit
breaker shuts everybody out, no identify of everybody who connects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.host.basic_host import BasicHost
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from moshgrid.p2p.identity import Identity
from moshgrid.p2p.libp2p_yamux import YamuxConnection

__all__ = ["QuietHost", "make_host"]


def make_host(
    identity: Identity, upgrade: TransportUpgrader, addrs: Callable[[], Sequence[str]]
) -> QuietHost:
    """A host that says of itself that it listens on ``addrs()``."""
    keys = create_new_key_pair(identity.private_bytes())
    store = PeerStore()
    peer = ID.from_pubkey(keys.public_key)
    store.add_key_pair(peer, keys)
    swarm = Swarm(peer, store, upgrader=upgrade, transports=[TCP()])
    return QuietHost(swarm, addrs)


class QuietHost(BasicHost):
    """Answers identify and ping, and asks nobody."""

    def __init__(self, swarm: Swarm, addrs: Callable[[], Sequence[str]]) -> None:
        self._swarm = swarm
        self._own_addrs = addrs
        super().__init__(network=swarm, disable_identify_address_discovery=True)

    def know(self, connection: YamuxConnection) -> SwarmConn:
        """Tells the stock protocols of a connection; ``forget`` must follow."""
        known = SwarmConn(connection, self._swarm, "outbound" if connection.is_initiator else "inbound")
        known.event_started.set()
        known.set_transport_info(connection.get_transport_addresses(), connection.get_connection_type())
        self._swarm.connections.setdefault(connection.peer_id, []).append(known)
        return known

    def forget(self, known: SwarmConn) -> None:
        """The connection is over."""
        known.event_closed.set()
        self._swarm.remove_conn(known)

    def get_transport_addrs(self) -> list[Multiaddr]:
        """Where we listen, without the peer id."""
        return [Multiaddr(addr.rpartition("/p2p/")[0]) for addr in self._own_addrs()]

    def get_addrs(self) -> list[Multiaddr]:
        """Where we listen."""
        return [Multiaddr(addr) for addr in self._own_addrs()]

    def _schedule_identify(self, peer_id: ID, *, reason: str) -> None:
        pass
