"""The ``Network`` over py-libp2p: TCP, Noise, yamux; what goes wrong below comes out as our errors."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedStreamError
from multiaddr import Multiaddr

from moshgrid.p2p.addresses import AddressBook, parse_listen, resolve, split_addr
from moshgrid.p2p.errors import Closed, Unreachable
from moshgrid.p2p.identity import Identity, PeerId
from moshgrid.p2p.libp2p_failures import explain_failure
from moshgrid.p2p.libp2p_inbound import InboundStreams
from moshgrid.p2p.libp2p_listening import check_free, listening_addrs
from moshgrid.p2p.libp2p_negotiation import propose_protocol
from moshgrid.p2p.libp2p_stream import Libp2pStream
from moshgrid.p2p.libp2p_swarm import QuietHost, make_host
from moshgrid.p2p.libp2p_yamux import YamuxConnection
from moshgrid.p2p.network import Network, Stream, StreamHandler

__all__ = ["open_libp2p_network"]

_log = logging.getLogger("moshgrid.p2p")

_DIAL_SECONDS = 10.0
_OPEN_SECONDS = 10.0
_CLOSE_SECONDS = 2.0


@asynccontextmanager
async def open_libp2p_network(
    identity: Identity, listen: Sequence[str] = ("/ip4/127.0.0.1/tcp/0",)
) -> AsyncIterator[Network]:
    """A network that lives as long as the context. Raises ConfigurationError for bad ``listen``."""
    listen_addrs = [parse_listen(addr) for addr in listen]
    check_free(listen_addrs)
    if not os.environ.get("LIBP2P_DEBUG"):
        # It warns of every peer that leaves, and shouts of every failed dial; ours says what matters.
        logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    network = Libp2pNetwork(identity)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run, listen_addrs)
        try:
            yield network
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_SECONDS):
                await network.say_goodbye()
            nursery.cancel_scope.cancel()


class Libp2pNetwork:
    """See ``Network``."""

    def __init__(self, identity: Identity) -> None:
        self._peer_id = identity.peer_id
        self._host: QuietHost = make_host(identity, self)
        self._swarm: Any = self._host.get_network()
        self._inbound = InboundStreams(self._host.multiselect.handlers)
        self._swarm.set_stream_handler(self._inbound.take)
        self._addrs: tuple[str, ...] = ()
        self._book = AddressBook()
        self._connections: dict[PeerId, list[YamuxConnection]] = {}
        self._dialling: dict[PeerId, trio.Lock] = {}
        self._listeners: dict[object, Callable[[PeerId], None]] = {}
        self._closed: str | None = None

    async def run(self, listen: Sequence[Multiaddr], task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Runs the host; whatever escapes from it ends this network and nothing else."""
        started = False
        try:
            async with self._host.run(listen):
                self._addrs = listening_addrs(self._swarm, listen, self._peer_id)
                task_status.started()
                started = True
                try:
                    await trio.sleep_forever()
                finally:
                    await self._stop_listening()
        except Exception:  # the root of the transport's tasks
            if not started:
                raise
            _log.exception("%s: the transport failed; this peer is off the network", self._peer_id)
        finally:
            self._shut("the network is closed")

    async def _stop_listening(self) -> None:
        # The listeners run in tasks of the loop itself, and stock code, being cancelled, forgets them.
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_SECONDS):
            for listener in list(self._swarm.listeners.values()):
                await listener.close()

    async def say_goodbye(self) -> None:
        """Ends every connection in good order."""
        self._shut("the network is closed", keep=True)
        async with trio.open_nursery() as nursery:
            for connections in list(self._connections.values()):
                for connection in list(connections):
                    nursery.start_soon(connection.close)

    def _shut(self, reason: str, *, keep: bool = False) -> None:
        self._closed = self._closed or reason
        self._inbound.closed = True
        self._listeners.clear()
        if not keep:
            self._connections.clear()

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
        return frozenset(self._connections)

    def on_lost(self, listener: Callable[[PeerId], None]) -> Callable[[], None]:
        """Calls ``listener`` when the last connection to a peer ends."""
        key = object()
        self._listeners[key] = listener

        def take_off() -> None:
            self._listeners.pop(key, None)

        return take_off

    def connection_began(self, connection: YamuxConnection) -> None:
        """A connection was authenticated."""
        self._connections.setdefault(connection.peer, []).append(connection)

    def connection_ended(self, connection: YamuxConnection) -> None:
        """A connection is gone."""
        live = self._connections.get(connection.peer, [])
        if connection not in live:
            return
        live.remove(connection)
        if live:
            return
        del self._connections[connection.peer]
        for listener in list(self._listeners.values()):
            listener(connection.peer)

    # Dialling.

    async def dial(self, addr: str) -> PeerId:
        """Connects to a full multiaddr."""
        self._check_open()
        try:
            target, peer = split_addr(addr)
        except ValueError as error:
            raise Unreachable(addr[:100], [(addr[:100], str(error))]) from None
        async with self._one_dial_at_a_time(peer):
            if peer not in self._connections and (failure := await self._try(target, peer)):
                raise Unreachable(peer, [(addr, failure)])
        self._book.learn(peer, [addr])
        return peer

    async def _dial_known(self, peer: PeerId) -> None:
        async with self._one_dial_at_a_time(peer):
            attempts: list[tuple[str, str]] = []
            for addr in self._book.of(peer):
                if peer in self._connections:
                    return
                failure = await self._try(split_addr(addr)[0], peer)
                if failure is None:
                    self._book.learn(peer, [addr])
                    return
                attempts.append((addr, failure))
            if peer not in self._connections:
                raise Unreachable(peer, attempts or [("no address", "none is known for this peer")])

    @asynccontextmanager
    async def _one_dial_at_a_time(self, peer: PeerId) -> AsyncIterator[None]:
        lock = self._dialling.setdefault(peer, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._dialling.pop(peer, None)

    async def _try(self, target: Multiaddr, peer: PeerId) -> str | None:
        """Dials one address; None when it worked, else what happened."""
        if peer == self._peer_id:
            return "is this peer itself"
        failure = "the name was not found"
        with trio.move_on_after(_DIAL_SECONDS):
            for place in await resolve(target):
                try:
                    await self._swarm.dial_addr(place, ID.from_base58(peer))
                except (BaseLibp2pError, OSError) as error:
                    failure = explain_failure(error, peer)
                    continue
                self._check_open()
                return None if peer in self._connections else "connected, and was lost at once"
            return failure
        return f"no answer within {_DIAL_SECONDS:g} s (filtered?)"

    # Streams.

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        """Hands inbound streams of ``protocol`` to ``handler``."""
        self._inbound.handlers[protocol] = handler

    async def open_stream(self, peer: PeerId, protocol: str) -> Stream:
        """A new stream, over a new connection when there is none."""
        self._check_open()
        if peer not in self._connections:
            await self._dial_known(peer)
        attempts: list[tuple[str, str]] = []
        for connection in reversed(self._connections.get(peer, [])):
            try:
                return await self._open_on(connection, protocol)
            except Unreachable as error:
                attempts += error.attempts
        raise Unreachable(peer, attempts or [(protocol, "the connection was lost")])

    async def _open_on(self, connection: YamuxConnection, protocol: str) -> Stream:
        if not connection.has_room:
            raise Unreachable(connection.peer, [(protocol, "256 streams to this peer are open already")])
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
