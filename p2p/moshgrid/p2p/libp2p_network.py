"""The ``Network`` over py-libp2p: TCP or WebSocket, TLS or Noise, yamux; what goes wrong comes out ours."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

import trio
from libp2p.custom_types import TProtocol

from moshgrid.p2p.addresses import AddressBook, parse_listen, relay_of, split_addr
from moshgrid.p2p.circuit_info import CircuitInfo
from moshgrid.p2p.complaints import Complaints
from moshgrid.p2p.connection_limits import Admission, ConnectionLimits
from moshgrid.p2p.dcutr import DCUTR
from moshgrid.p2p.descriptors import descriptor_limit
from moshgrid.p2p.dial_rules import DialRules
from moshgrid.p2p.dialling import Dialler
from moshgrid.p2p.errors import Closed, Unreachable
from moshgrid.p2p.identity import Identity, PeerId
from moshgrid.p2p.idle import IdleConnections
from moshgrid.p2p.interfaces import Interfaces
from moshgrid.p2p.libp2p_calling import Caller
from moshgrid.p2p.libp2p_circuit_renewal import CircuitRenewal
from moshgrid.p2p.libp2p_circuits import Circuits
from moshgrid.p2p.libp2p_connections import Connections
from moshgrid.p2p.libp2p_inbound import InboundStreams
from moshgrid.p2p.libp2p_listening import Door, Doorkeeper, bind, calling_ports, listening_addrs
from moshgrid.p2p.libp2p_opening import Opening, open_on
from moshgrid.p2p.libp2p_punching import Puncher
from moshgrid.p2p.libp2p_stream import Libp2pStream
from moshgrid.p2p.libp2p_swarm import make_host
from moshgrid.p2p.libp2p_upgrade import Upgrade
from moshgrid.p2p.libp2p_yamux import YamuxConnection
from moshgrid.p2p.network import Network, Stream, StreamHandler
from moshgrid.p2p.offering import Offering
from moshgrid.p2p.own_addrs import OwnAddrs
from moshgrid.p2p.relay_messages import STOP

__all__ = ["open_libp2p_network"]

_log = logging.getLogger("moshgrid.p2p")

_DIAL_SECONDS = 10.0
_CLOSE_SECONDS = 2.0


@asynccontextmanager
async def open_libp2p_network(
    identity: Identity,
    listen: Sequence[str] = ("/ip4/127.0.0.1/tcp/0",),
    psk: bytes | None = None,
    limits: ConnectionLimits | None = None,
) -> AsyncIterator[Network]:
    """A network that lives as long as the context, private with ``psk``.

    Raises ConfigurationError for bad ``listen``.
    """
    doors = await bind([parse_listen(addr) for addr in listen])
    if not os.environ.get("LIBP2P_DEBUG"):
        # It warns of every peer that leaves, and shouts of every failed dial; ours says what matters.
        logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    if limits is None:
        limits = ConnectionLimits().fitted(descriptor_limit())
    async with trio.open_nursery() as nursery:
        network = Libp2pNetwork(identity, doors, nursery, psk, limits)
        try:
            yield network
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_SECONDS):
                await network.say_goodbye()
            nursery.cancel_scope.cancel()
            network.forget_all()


class Libp2pNetwork:
    """See ``Network``. Its tasks live in ``nursery``, and nothing that a peer does comes out of them."""

    def __init__(
        self,
        identity: Identity,
        doors: Sequence[Door],
        nursery: trio.Nursery,
        psk: bytes | None,
        limits: ConnectionLimits,
    ) -> None:
        self._peer_id = identity.peer_id
        self._nursery = nursery
        self.own_addrs = OwnAddrs(self._peer_id)
        """Where others can dial this peer; whoever learns of a way says so here."""
        self._doors = doors
        self.own_addrs.set("listening", listening_addrs(doors, self._peer_id))
        self.offering = Offering(self.own_addrs)
        complaints = Complaints(_log)
        self._connections = Connections(limits, complaints)
        upgrade = Upgrade(identity, self._connections, psk)
        self._host = make_host(identity, upgrade, self.own_addrs.all)
        self._inbound = InboundStreams(self._host.multiselect.handlers, limits, complaints)
        self._book = AddressBook()
        self._idle = IdleConnections(limits.idle_seconds)
        self.circuits = Circuits(self, upgrade, self._live_relayed, limits)
        """Connections through relays."""
        ports = calling_ports(doors)
        self.interfaces = Interfaces()
        rules = DialRules(self.offering.hosts, self._book.of, self.interfaces)
        self.caller = caller = Caller(self._peer_id, upgrade, self.circuits, ports, rules)
        self._connections.on_began(
            lambda each: rules.met(each.peer, each.get_remote_address(), each.is_relayed)
        )
        self._dialler = Dialler(nursery, caller.call, self.begin, caller.hang_up, _DIAL_SECONDS)
        self.admission = Admission(limits, members_only=psk is not None)
        self._closed: str | None = None
        self._opening = Opening(self._connections, self._book.of, self._reach)
        self._connections.on_relayed(CircuitRenewal(nursery, self._dial_again, self.is_direct).began)
        self.puncher = Puncher(
            nursery, caller, upgrade, self._connections, self.begin, self.open_on, self.offering.offers
        )
        self.serve(DCUTR, self.puncher.answer)
        expected_at = self.puncher.expected_at
        doorkeeper = Doorkeeper(upgrade, self.admission, self._live, complaints, self._idle, expected_at)
        nursery.start_soon(self._idle.run)
        for door in doors:
            nursery.start_soon(doorkeeper.keep, door, nursery)
        self.serve(STOP, self.circuits.take)

    def look_at_interfaces(self) -> None:
        """Takes note of the addresses that this computer has now.

        When they have changed, connections may lead nowhere without our being told: each has to show that
        it lives.
        """
        before, now = self.own_addrs.of("listening"), listening_addrs(self._doors, self._peer_id)
        if set(before) == set(now):
            return
        self.own_addrs.set("listening", now)
        self.interfaces.look_again()
        for connection in self._connections.all():
            if not connection.is_relayed:
                connection.driver.doubt()

    async def say_goodbye(self) -> None:
        """Ends every connection in good order."""
        self._closed = "the network is closed"
        self._inbound.closed = True
        self._connections.forget_listeners()
        async with trio.open_nursery() as nursery:
            for connection in self._connections.all():
                nursery.start_soon(connection.close)

    def forget_all(self) -> None:
        """Nobody is connected any more."""
        self._connections.clear()

    async def begin(self, connection: YamuxConnection) -> None:
        """Lets a secured connection live."""
        await self._nursery.start(partial(self._live, connection))

    async def _live(
        self,
        connection: YamuxConnection,
        over: Callable[[], None] = lambda: None,
        task_status: object = trio.TASK_STATUS_IGNORED,
    ) -> None:
        try:
            await self._connections.run(connection, self._inbound, self._host, over, task_status)
        except Exception:  # the root of this connection's task: it ends, the node does not
            _log.exception("%s: the connection failed", connection.peer)

    async def _live_relayed(self, connection: YamuxConnection) -> None:
        self._idle.watch(connection, trio.current_time())
        await self._live(connection, partial(self._idle.forget, connection))

    async def _dial_again(self, peer: PeerId) -> None:
        await self._reach(peer, [addr for addr in self._book.of(peer) if relay_of(addr) is not None])

    # Who we are and whom we know.

    @property
    def peer_id(self) -> PeerId:
        """This peer."""
        return self._peer_id

    @property
    def addrs(self) -> tuple[str, ...]:
        """Where others can dial this peer."""
        return self.own_addrs.all()

    def learn_addrs(self, peer: PeerId, addrs: Sequence[str], seq: int | None = None) -> None:
        """Remembers well-formed addresses of ``peer``."""
        self._book.learn(peer, addrs, seq)

    def addrs_of(self, peer: PeerId) -> tuple[str, ...]:
        """Addresses known for a peer."""
        return self._book.of(peer)

    def connected(self) -> frozenset[PeerId]:
        """Peers with a live connection."""
        return self._connections.peers()

    def observed_ip(self, peer: PeerId) -> str | None:
        """The IP address at the other end of a direct connection with ``peer``; None without one."""
        return next(iter(self.observed_ips(peer)), None)

    def observed_ips(self, peer: PeerId) -> tuple[str, ...]:
        """Those at the other ends of all direct connections with ``peer``, the newest first."""
        direct = [each for each in self.connections_with(peer) if not each.is_relayed]
        places = [place for each in direct if (place := each.get_remote_address()) is not None]
        return tuple(dict.fromkeys(place[0] for place in places))

    def connections_with(self, peer: PeerId) -> list[YamuxConnection]:
        """Those that can be used: direct ones first, then the newest."""
        return self._connections.usable(peer)

    def on_lost(self, listener: Callable[[PeerId], None]) -> Callable[[], None]:
        """Calls ``listener`` when the last connection to a peer ends."""
        return self._connections.on_lost(listener)

    def on_began(self, listener: Callable[[YamuxConnection], None]) -> Callable[[], None]:
        """Calls ``listener`` with each connection as soon as streams can be opened on it."""
        return self._connections.on_began(listener)

    def on_relayed(self, listener: Callable[[YamuxConnection], None]) -> Callable[[], None]:
        """Calls ``listener`` with each relayed connection that is up, whoever dialled."""
        return self._connections.on_relayed(listener)

    def is_direct(self, peer: PeerId) -> bool:
        """True when a live connection with ``peer`` goes through no relay."""
        return self._connections.is_direct(peer)

    async def reach_directly(self, peer: PeerId, seconds: float) -> bool:
        """Dials the known direct addresses of ``peer``, or punches a hole over a relayed connection."""
        self._check_open()
        with trio.move_on_after(seconds):
            if not self._connections.usable(peer):
                with suppress(Unreachable):
                    await self._reach(peer, self._book.of(peer))
            if not self.is_direct(peer):
                await self.puncher.race(peer, partial(self._dial_directly, peer))
        return self.is_direct(peer)

    async def _dial_directly(self, peer: PeerId) -> None:
        await self._reach(peer, [addr for addr in self._book.of(peer) if relay_of(addr) is None])

    def circuit_of(self, peer: PeerId) -> CircuitInfo | None:
        """The relay that new streams to ``peer`` go through; None when they go directly, or nowhere."""
        usable = self._connections.usable(peer)
        return usable[0].circuit if usable else None

    def keep_idle(self, wanted: Callable[[PeerId], bool]) -> None:
        """Connections with peers of which ``wanted`` says True are not ended for being idle."""
        self._idle.wanted.append(wanted)

    # Dialling.

    async def dial(self, addr: str) -> PeerId:
        """Connects to a full multiaddr."""
        self._check_open()
        try:
            _, peer = split_addr(addr)
        except ValueError as error:
            raise Unreachable(addr[:100], [(addr[:100], str(error))]) from None
        self.caller.trusted[addr] = None
        if self._connections.of(peer):
            self._book.reached(peer, addr)
        else:
            await self._reach(peer, [addr])
        return peer

    async def _reach(self, peer: PeerId, addrs: Sequence[str]) -> None:
        answered_at = await self._dialler.reach(peer, addrs)
        self._check_open()
        self._book.reached(peer, answered_at)

    # Streams.

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        """Hands inbound streams of ``protocol`` to ``handler``."""
        self._inbound.handlers[protocol] = handler
        self._host.multiselect.add_handler(TProtocol(protocol), None)  # so that identify names it

    async def open_stream(self, peer: PeerId, protocol: str) -> Stream:
        """A new stream, over a new connection when there is none."""
        self._check_open()
        return await self._opening.open_stream(peer, protocol)

    async def open_on(self, connection: YamuxConnection, protocol: str) -> Libp2pStream:
        """A new stream on this very connection. Raises Unreachable, RemoteProtocolError."""
        return await open_on(connection, protocol)

    def _check_open(self) -> None:
        if self._closed is not None:
            raise Closed(self._closed)
