"""Address blocks: in which one a peer is seen, whatever it says itself. Identities cost nothing; these do."""

from __future__ import annotations

from moshgrid.dht.diversity import place_of
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.ip_ranges import inner_ip, is_home
from moshgrid.p2p.network import Network

__all__ = ["HOME", "block_of", "block_seen"]

HOME = "home"
"""Private, loopback and link-local addresses: whoever is seen there is a neighbour."""


def block_of(ip: str) -> str | None:
    """The /24 of an IPv4 address, the /48 of an IPv6 one, or ``HOME``; None for what is no address."""
    try:
        if is_home(ip):
            return HOME
        inner = inner_ip(ip)
    except ValueError:
        return None
    place = place_of(f"/ip{inner.version}/{inner}", exempt_local=False)
    return None if place is None else place[0]


def block_seen(network: Network, peer: PeerId) -> str | None:
    """Where ``peer`` is seen; None without a direct connection, as a relay's address is not the peer's."""
    ip = network.observed_ip(peer)
    return None if ip is None else block_of(ip)
