"""Which addresses of ours are offered to a peer that would punch a hole: those that mean something to it."""

from __future__ import annotations

from collections.abc import Sequence

from multiaddr import Multiaddr

from moshgrid.p2p.addresses import Carrier, carrier_of, relay_of, split_addr
from moshgrid.p2p.ip_ranges import is_home, is_loopback, is_nowhere
from moshgrid.p2p.own_addrs import OwnAddrs

__all__ = ["Offering"]


class Offering:
    """What others saw of us, and what we listen on."""

    def __init__(self, own: OwnAddrs) -> None:
        self._own = own
        self.seen_at: tuple[tuple[str, int], ...] = ()
        """IP addresses and ports of the listening port as others saw it, the best known first."""

    def hosts(self) -> list[str]:
        """IP addresses at which others saw us."""
        return [host for host, _ in self.seen_at]

    def offers(self, hosts: Sequence[str] = ()) -> list[bytes]:
        """Binary multiaddrs, without a peer id, for a peer that is at ``hosts``.

        Addresses within a home are for those in it only: whoever comes from where we come from.
        """
        seen = [f"/ip{'6' if ':' in host else '4'}/{host}/tcp/{port}" for host, port in self.seen_at]
        world, home = dict.fromkeys(seen), dict[str, None]()
        for addr in self._own.all():
            if relay_of(addr) is not None:
                continue
            place, _ = split_addr(addr)
            if carrier_of(place) is not Carrier.TCP or not str(place).startswith("/ip"):
                continue
            host = str(place).split("/")[2]
            if not is_nowhere(host) and not is_loopback(host):
                (home if is_home(host) else world)[str(place)] = None
        ours = {addr.split("/")[2] for addr in world}
        if ours & set(hosts):
            world |= home
        return [Multiaddr(addr).to_bytes() for addr in world]
