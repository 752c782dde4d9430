"""A host's part in relaying: it passes bytes on for others, or is reached through others, or neither."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING

import trio

from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.relay_keeping import RelayKeeping
from moshgrid.p2p.relay_server import RelayServer

if TYPE_CHECKING:
    from moshgrid.p2p.libp2p_network import Libp2pNetwork

__all__ = ["LAYER", "Relaying"]

LAYER = "relay"
"""Its name in ``Host.layers``."""


class Relaying:
    """One per host that runs over libp2p.

    ``serves``: this peer is a relay. ``reserves``: it lets relays pass others on to it; None: as long as it
    is not known that everybody reaches it without, and neither is everything that it listens on of this
    computer only.
    """

    def __init__(self, network: Libp2pNetwork, host: Host, *, serves: bool, reserves: bool | None) -> None:
        self.server: RelayServer | None = None
        self.own_addrs = network.own_addrs
        self.keeping = RelayKeeping(
            network, host.clock, network.circuits.relays, self._advertise, host.rng.random
        )
        self._reserves = reserves
        self._public: bool | None = None
        self._bootstrap = host.bootstrap
        self._network = network
        if serves:
            self.server = RelayServer(network, host.identity, host.clock, network.observed_ip)
        host.layers[LAYER] = self

    async def run(self) -> None:
        """Until cancelled."""
        self._network.keep_idle(self.keeping.needs)
        if self.server is not None:
            self._network.keep_idle(self.server.needs)
            self.server.start()
        self.keeping.finders.append(self._bootstraps)
        self.keeping.want(self._wants())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.keeping.run)

    def learned(self, public: bool | None) -> None:
        """Whether everybody can reach this peer directly; None while that is unknown."""
        self._public = public
        self.keeping.want(self._wants())

    def on_addrs(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Calls ``listener`` whenever this peer's addresses changed; the result takes it off."""
        return self.own_addrs.on_change(listener)

    def _wants(self) -> bool:
        if self._reserves is not None:
            return self._reserves
        if self._public is not None:
            return not self._public
        if self.server is not None:
            return False  # who says that it is a relay says that it can be reached
        listening = self.own_addrs.of("listening")
        return not listening or not all(_is_loopback(addr) for addr in listening)

    def _advertise(self, addrs: tuple[str, ...]) -> None:
        self.own_addrs.set("relayed", addrs)

    async def _bootstraps(self) -> list[PeerId]:
        """Whom everybody joins through is likely to be a relay."""
        await trio.lowlevel.checkpoint()
        peers = []
        for addr in self._bootstrap:
            peer = PeerId(addr.rpartition("/p2p/")[2])
            self._network.learn_addrs(peer, [addr])
            peers.append(peer)
        return peers


def _is_loopback(addr: str) -> bool:
    _, kind, host, *_ = addr.split("/")
    return kind.startswith("ip") and ip_address(host).is_loopback
