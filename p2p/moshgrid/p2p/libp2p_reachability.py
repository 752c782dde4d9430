"""Finds out how this peer can be reached, keeps finding out, and tells whom it concerns."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio
from multiaddr import Multiaddr

from moshgrid.p2p.addresses import Carrier, carrier_of
from moshgrid.p2p.dialling import DialFailed
from moshgrid.p2p.errors import RemoteProtocolError, StreamReset, Unreachable
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.interfaces import Interfaces
from moshgrid.p2p.ip_ranges import is_home, is_loopback
from moshgrid.p2p.libp2p_dialback import DialBack
from moshgrid.p2p.libp2p_identify import identify
from moshgrid.p2p.libp2p_yamux import YamuxConnection
from moshgrid.p2p.machine import DeadlinePassed
from moshgrid.p2p.observed_addrs import Place
from moshgrid.p2p.port_mapping_client import PortMapping
from moshgrid.p2p.protobuf import Malformed
from moshgrid.p2p.reachability import (
    LAYER,
    Announce,
    Answered,
    AskForCalls,
    CallOver,
    Event,
    Family,
    ListeningOn,
    Mapped,
    Observed,
    PeerCame,
    PeerLeft,
    Proven,
    Reachability,
    family_of,
)
from moshgrid.p2p.reachability_families import ReachabilityFamilies

if TYPE_CHECKING:
    from moshgrid.p2p.libp2p_network import Libp2pNetwork

__all__ = ["ReachabilityWatch"]

_log = logging.getLogger("moshgrid.p2p")

_IDENTIFY_SECONDS = 3.0
_CALL_OVER_SECONDS = 4.0
_OVER_PLACES = 2
"""So many of a peer's addresses of a family are called."""
_OUTSIDE: dict[Family, str] = {"ip4": "198.51.100.1", "ip6": "2001:db8::1"}
"""Nobody's, somewhere in the world: is there a way?"""
_OBSERVERS = 8
"""So many address groups are asked what they see."""
_ASKED_AT_ONCE = 4
_ENOUGH_SECONDS = 15.0
"""When enough have said what they see, another is asked this often: addresses change unnoticed."""
_INTERFACE_SECONDS = 3.0


class ReachabilityWatch:
    """One per host that runs over libp2p. ``changed`` is told whether everybody can reach this peer.

    ``map_port``: when nobody outside can, ask the router to forward the listening port.
    """

    def __init__(
        self,
        network: Libp2pNetwork,
        host: Host,
        changed: Callable[[bool | None], None],
        *,
        map_port: bool = False,
    ) -> None:
        self._network = network
        self._host = host
        self._changed = changed
        self._machine = ReachabilityFamilies(host.clock.now())
        self._dial_back = DialBack(network, host, lambda place, witness: self.tell(Proven(place, witness)))
        self._events: list[Event] = []
        self._stirred = trio.Event()
        self._asking = 0
        self._asked_at = 0.0
        self._may_map = map_port
        self.mapping: PortMapping | None = None
        """Once this peer has asked its router for a port."""
        self._mapping_scope = trio.CancelScope()
        self._told: bool | None = None
        self.settled = trio.Event()
        """Set when something has been said of every address family that this computer has."""
        self.public = trio.Event()
        """Set when it was proven once, over every address family of this computer, that all can reach it."""
        host.layers[LAYER] = self

    @property
    def reachability(self) -> Reachability:
        """What is known now."""
        return self._machine.now_known

    def tell(self, event: Event) -> None:
        """Lets the machine know."""
        self._events.append(event)
        self._stirred.set()

    def mapped(self, place: Place | None) -> None:
        """A router forwards ``place`` to the listening port, or none does."""
        addrs = [] if place is None else [f"/ip4/{place[0]}/tcp/{place[1]}/p2p/{self._host.peer_id}"]
        self._network.own_addrs.set("mapped", addrs)
        self.tell(Mapped(place))

    async def run(self) -> None:
        """Until cancelled."""
        self._network.on_began(self._began)
        self._network.on_lost(lambda peer: self.tell(PeerLeft(peer)))
        self._listened_on = self._listening()
        for listening in self._listened_on:
            self.tell(listening)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._watch_interfaces)
            while True:
                events, self._events = self._events, []
                self._stirred = trio.Event()
                for event in (*events, DeadlinePassed()):
                    for effect in self._machine.handle(event, self._host.clock.now()):
                        match effect:
                            case AskForCalls():
                                nursery.start_soon(self._ask, effect)
                            case CallOver(peer, family):
                                nursery.start_soon(self._call_over, peer, family)
                            case Announce():
                                self._announce(effect)
                self._network.offering.seen_at = self._machine.seen_at
                deadline = self._machine.deadline
                wait = float("inf") if deadline is None else max(0.01, deadline - self._host.clock.now())
                with trio.move_on_after(wait):
                    await self._stirred.wait()

    async def _watch_interfaces(self) -> None:
        """A laptop is carried from one network to the next."""
        while True:
            await trio.sleep(_INTERFACE_SECONDS)
            self._network.look_at_interfaces()
            if (listening := self._listening()) != self._listened_on:
                self._listened_on = listening
                self._mapping_scope.cancel()  # it was another router's
                self.mapping = None
                self.mapped(None)
                for each in listening:
                    self.tell(each)

    async def _keep_mapping(self, mapping: PortMapping) -> None:
        with trio.CancelScope() as self._mapping_scope:
            await mapping.run()

    def _listening(self) -> tuple[ListeningOn, ...]:
        return self._listening_over("ip4"), self._listening_over("ip6")

    def _listening_over(self, family: Family) -> ListeningOn:
        port: int | None = None
        hosts, home = list[str](), list[str]()
        for addr in self._network.own_addrs.of("listening"):
            place = Multiaddr(addr.rpartition("/p2p/")[0])
            (kind, host), *_ = place.items()
            if carrier_of(place) is not Carrier.TCP or kind.name != family:
                continue
            if not is_loopback(str(host)):
                port = port or int(addr.split("/")[4])
            (home if is_home(str(host)) else hosts).append(str(host))
        leads = Interfaces.lead_to(_OUTSIDE[family])
        return ListeningOn(port, tuple(hosts), tuple(home), family, leads)

    # Those who are asked.

    def _began(self, connection: YamuxConnection) -> None:
        remote = connection.get_remote_address()
        if connection.is_relayed or remote is None or is_home(remote[0]):
            return
        if remote[0] in self._network.interfaces.hosts:
            return  # another peer on this computer
        if connection.is_initiator:
            self._nursery.start_soon(self._ask_what_it_sees, connection, remote[0])
        else:
            self.tell(PeerCame(connection.peer, remote[0]))

    async def _ask_what_it_sees(self, connection: YamuxConnection, observer: str) -> None:
        called_from = self._network.caller.called_from.get(connection)
        if self._asking < _ASKED_AT_ONCE and self._would_know(family_of(observer)):
            self._asking += 1
            self._asked_at = trio.current_time()
            try:
                with trio.move_on_after(_IDENTIFY_SECONDS):
                    host, port = (await identify(self._network, connection)).seen_at()
                    self.tell(Observed(observer, host, port, called_from is not None))
            except (StreamReset, Unreachable, RemoteProtocolError, Malformed) as error:
                _log.debug("%s did not say where it sees us: %s", connection.peer, error)
            finally:
                self._asking -= 1
        self.tell(PeerCame(connection.peer, observer, called=True))

    def _would_know(self, family: Family) -> bool:
        """True when one more observer would tell us anything."""
        if family not in self._machine.families:
            return False
        observed = self._machine.observed(family)
        few = observed.observers < _OBSERVERS or observed.agreed is None
        return few or observed.in_doubt or trio.current_time() > self._asked_at + _ENOUGH_SECONDS

    async def _call_over(self, peer: PeerId, family: Family) -> None:
        """Lets a peer that we are connected with over one family see us over the other."""
        try:
            with trio.move_on_after(_CALL_OVER_SECONDS):
                for connection in self._network.connections_with(peer):
                    if not connection.is_relayed:
                        places = (await identify(self._network, connection)).listens_over(family)
                        await self._call_first(peer, places)
                        return
        except (StreamReset, Unreachable, RemoteProtocolError, Malformed) as error:
            _log.debug("%s was not called over %s: %s", peer, family, error)

    async def _call_first(self, peer: PeerId, places: list[str]) -> None:
        outside = [place for place in places if not is_home(place.split("/")[2])]
        for place in outside[:_OVER_PLACES]:
            try:
                connection = await self._network.caller.call(f"{place}/p2p/{peer}", peer)
            except DialFailed as error:
                _log.debug("%s was not called at %s: %s", peer, place, error)
            else:
                await self._network.begin(connection)
                return

    async def _ask(self, effect: AskForCalls) -> None:
        tried = missed = 0
        try:
            tried, missed = await self._dial_back.ask(effect.peer, effect.places)
        except (Unreachable, RemoteProtocolError) as error:
            _log.debug("%s did not have us called: %s", effect.peer, error)
        self.tell(Answered(effect.places, tried, missed))

    # Those who are told.

    def _announce(self, effect: Announce) -> None:
        found = effect.reachability
        public = {"public": True, "unknown": None}.get(found.verdict, False)
        proven = {family: each for family, each in found.families.items() if each.verdict == "public"}
        places = [
            f"/{family}/{host}/tcp/{port}" for family, each in proven.items() for host, port in each.places
        ]
        peer = self._host.peer_id
        self._network.own_addrs.set("observed", [f"{place}/p2p/{peer}" for place in places])
        self._network.caller.proven = frozenset(proven)
        self._host.events.emit("reachability", verdict=found.verdict, why=found.why, improve=found.improve)
        if self._machine.seen_at or found.verdict != "unknown":
            _log.info("reachable from outside: %s", found)
        else:
            _log.debug("reachable from outside: %s", found)
        if self._machine.settled:
            self.settled.set()
        if len(proven) == len(found.families):
            self.public.set()
        port, four = self._machine.listening_port("ip4"), self._machine.observed("ip4")
        if self._may_map and "ip4" not in proven and self.mapping is None and four.hosts and port:
            self.mapping = PortMapping(port, self.mapped)
            self._nursery.start_soon(self._keep_mapping, self.mapping)
        if public is not self._told or public is None:
            self._told = public
            self._changed(public)
