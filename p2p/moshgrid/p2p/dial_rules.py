"""Which addresses that strangers name are dialled: none within a home that is not known to be ours too.

A stranger could send us to a printer in our own network, or to another program on this computer. So once
this peer knows anybody outside, private and loopback addresses are dialled only for neighbours: peers that
were met within this network, or that say they come from the public address that we come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.interfaces import Interfaces
from moshgrid.p2p.ip_ranges import is_home, is_loopback, is_nowhere, plain_ip
from moshgrid.p2p.last_used import LastUsed

__all__ = ["DialRules"]

_MAX_MET = 5000


class DialRules:
    """``our_hosts`` tells at which IP addresses others saw us, ``claims`` what a peer says of its own."""

    def __init__(
        self,
        our_hosts: Callable[[], Sequence[str]],
        claims: Callable[[PeerId], Sequence[str]],
        interfaces: Interfaces,
    ) -> None:
        self._our_hosts = our_hosts
        self._claims = claims
        self._interfaces = interfaces
        self._knows_world = False
        self._neighbours: LastUsed[PeerId, str] = LastUsed(_MAX_MET)
        self._hosts: LastUsed[str, None] = LastUsed(_MAX_MET)

    def met(self, peer: PeerId, place: tuple[str, int] | None, relayed: bool) -> None:
        """A connection with ``peer``, at the other end of which is ``place``, began."""
        if relayed or place is None or (not is_home(place[0]) and place[0] in self._interfaces.hosts):
            return
        if not is_home(place[0]):
            self._knows_world = True
            return
        self._neighbours[peer] = place[0]
        self._hosts[place[0]] = None

    def allow(self, peer: PeerId, host: str) -> bool:
        """True when ``peer`` may be dialled at the IP address ``host``, which it or others named."""
        if is_nowhere(host):
            return False
        if not self._knows_world or not is_home(host):
            return True
        met_at = self._neighbours.get(peer)
        if is_loopback(host):
            return met_at is not None and is_loopback(met_at)
        if met_at is not None and not is_loopback(met_at):
            return True
        ip = plain_ip(host)
        shared = [network for network in self._interfaces.networks if ip in network]
        if not shared:
            return False
        public = [each for each in map(_host_of, self._claims(peer)) if each and not is_home(each)]
        if public:
            return not set(public).isdisjoint(self._our_hosts())
        met = map(plain_ip, self._hosts.newest(_MAX_MET))
        return any(other in network for network in shared for other in met)


def _host_of(addr: str) -> str | None:
    """The IP address of a direct multiaddr."""
    if "/p2p-circuit" in addr:
        return None
    _, kind, host, *_ = addr.split("/")
    return host if kind in ("ip4", "ip6") else None
