"""The ``Network`` over py-libp2p: TCP or WebSocket, TLS or Noise, yamux; what goes wrong comes out ours."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import trio
from libp2p.connection_types import ConnectionType
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.stream_muxer.exceptions import MuxedStreamError

from moshgrid.p2p.addresses import AddressBook, parse_listen, split_addr
from moshgrid.p2p.complaints import Complaints
from moshgrid.p2p.connection_limits import Admission, ConnectionLimits
from moshgrid.p2p.dialling import Dialler
from moshgrid.p2p.errors import Closed, Unreachable
from moshgrid.p2p.identity import Identity, PeerId
from moshgrid.p2p.libp2p_calling import Caller
from moshgrid.p2p.libp2p_connections import Connections
from moshgrid.p2p.libp2p_inbound import InboundStreams
from moshgrid.p2p.libp2p_listening import Door, Doorkeeper, bind, listening_addrs
from moshgrid.p2p.libp2p_negotiation import propose_protocol
from moshgrid.p2p.libp2p_stream import Libp2pStream
from moshgrid.p2p.libp2p_swarm import make_host
from moshgrid.p2p.libp2p_upgrade import Upgrade
from moshgrid.p2p.libp2p_yamux import YamuxConnection
from moshgrid.p2p.network import Network, Stream, StreamHandler

__all__ = ["open_libp2p_network"]

_log = logging.getLogger("moshgrid.p2p")

_DIAL_SECONDS = 10.0
_OPEN_SECONDS = 10.0
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
        limits = ConnectionLimits().fitted(_descriptors())
    async with trio.open_nursery() as nursery:
        network = Libp2pNetwork(identity, doors, nursery, psk, limits)
        try:
            yield network
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_SECONDS):
                await network.say_goodbye()
            nursery.cancel_scope.cancel()
            network.forget_all()


def _descriptors() -> int:
    """How many files and connections this process may have open."""
    if sys.platform == "win32":
        return sys.maxsize
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


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
        self._addrs = listening_addrs(doors, self._peer_id)
        complaints = Complaints(_log)
        self._connections = Connections(limits, complaints)
        upgrade = Upgrade(identity, self._connections, psk)
        self._host = make_host(identity, upgrade, lambda: self._addrs)
        self._inbound = InboundStreams(self._host.multiselect.handlers, limits, complaints)
        self._book = AddressBook()
        caller = Caller(self._peer_id, upgrade)
        self._dialler = Dialler(nursery, caller.call, self._begin, caller.hang_up, _DIAL_SECONDS)
        self.admission = Admission(limits, members_only=psk is not None)
        self._closed: str | None = None
        doorkeeper = Doorkeeper(upgrade, self.admission, self._live, complaints)
        nursery.start_soon(doorkeeper.end_the_idle)
        for door in doors:
            nursery.start_soon(doorkeeper.keep, door, nursery)

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

    async def _begin(self, connection: YamuxConnection) -> None:
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

    # Who we are and whom we know.

    @property
    def peer_id(self) -> PeerId:
        """This peer."""
        return self._peer_id

    @property
    def addrs(self) -> tuple[str, ...]:
        """Where others can dial this peer."""
        return self._addrs

    def learn_addrs(self, peer: PeerId, addrs: Sequence[str]) -> None:
        """Remembers well-formed addresses of ``peer``."""
        self._book.learn(peer, addrs)

    def addrs_of(self, peer: PeerId) -> tuple[str, ...]:
        """Addresses known for a peer."""
        return self._book.of(peer)

    def connected(self) -> frozenset[PeerId]:
        """Peers with a live connection."""
        return self._connections.peers()

    def observed_ip(self, peer: PeerId) -> str | None:
        """The address at the other end of a direct connection."""
        for connection in self._usable(peer):
            remote = connection.get_remote_address()
            if remote is not None and connection.get_connection_type() is ConnectionType.DIRECT:
                return remote[0]
        return None

    def on_lost(self, listener: Callable[[PeerId], None]) -> Callable[[], None]:
        """Calls ``listener`` when the last connection to a peer ends."""
        return self._connections.on_lost(listener)

    # Dialling.

    async def dial(self, addr: str) -> PeerId:
        """Connects to a full multiaddr."""
        self._check_open()
        try:
            _, peer = split_addr(addr)
        except ValueError as error:
            raise Unreachable(addr[:100], [(addr[:100], str(error))]) from None
        if self._connections.of(peer):
            self._book.learn(peer, [addr])
        else:
            await self._reach(peer, [addr])
        return peer

    async def _reach(self, peer: PeerId, addrs: Sequence[str]) -> None:
        answered_at = await self._dialler.reach(peer, addrs)
        self._check_open()
        self._book.learn(peer, [answered_at])

    # Streams.

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        """Hands inbound streams of ``protocol`` to ``handler``."""
        self._inbound.handlers[protocol] = handler
        self._host.multiselect.add_handler(TProtocol(protocol), None)  # so that identify names it

    async def open_stream(self, peer: PeerId, protocol: str) -> Stream:
        """A new stream, over a new connection when there is none."""
        self._check_open()
        attempts: list[tuple[str, str]] = []
        for _ in range(2):  # a connection may end, for being idle, just when it is to be used again
            if not self._usable(peer):
                await self._reach(peer, self._book.of(peer))
            for connection in self._usable(peer):
                try:
                    return await self._open_on(connection, protocol)
                except Unreachable as error:
                    attempts += error.attempts
            if self._usable(peer) or not self._book.of(peer):
                break
        raise Unreachable(peer, attempts or [(protocol, "the connection was lost")])

    def _usable(self, peer: PeerId) -> list[YamuxConnection]:
        """The connections with ``peer`` that neither side is about to end, the newest first."""
        return [each for each in reversed(self._connections.of(peer)) if not each.is_ending]

    async def _open_on(self, connection: YamuxConnection, protocol: str) -> Stream:
        if not connection.has_room:
            raise Unreachable(
                connection.peer, [(protocol, "as many streams to this peer as may be are open")]
            )
        try:
            stream = Libp2pStream(await connection.open_stream())
        except (MuxedStreamError, BaseLibp2pError) as error:
            raise Unreachable(connection.peer, [(protocol, "the connection was lost")]) from error
        stream.protocol = protocol
        agreed = False
        try:
            with trio.move_on_after(_OPEN_SECONDS):
                await propose_protocol(stream, protocol)
                agreed = True
        finally:
            if not agreed:
                await stream.reset()
        if not agreed:
            raise Unreachable(connection.peer, [(protocol, f"no answer within {_OPEN_SECONDS:g} s")])
        return stream

    def _check_open(self) -> None:
        if self._closed is not None:
            raise Closed(self._closed)
