"""Listening: sockets of our own, each guest counted before a byte of it is read, and gone in time."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

import trio
from libp2p.abc import IRawConnection
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from moshgrid.p2p.addresses import Carrier, carrier_of, expand_wildcard
from moshgrid.p2p.calling_port import CallingPorts, share_port
from moshgrid.p2p.complaints import Complaints
from moshgrid.p2p.connection_limits import Admission, Guest, Refusal
from moshgrid.p2p.errors import ConfigurationError, MoshgridError
from moshgrid.p2p.first_words import proposes_first
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.idle import IdleConnections
from moshgrid.p2p.libp2p_tcp import over_tcp
from moshgrid.p2p.libp2p_upgrade import Upgrade
from moshgrid.p2p.libp2p_websocket import accept_websocket
from moshgrid.p2p.libp2p_yamux import YamuxConnection

__all__ = ["Door", "Doorkeeper", "bind", "calling_ports", "listening_addrs"]

_log = logging.getLogger("moshgrid.p2p")

_BACKLOG = 512
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Door:
    """A socket that is listened on, and what its guests speak."""

    listener: trio.SocketListener
    carrier: Carrier


async def bind(listen: Sequence[Multiaddr]) -> list[Door]:
    """Sockets that listen on ``listen``. Raises ConfigurationError when a port is taken."""
    doors: list[Door] = []
    for addr in listen:
        (_, host), (_, port), *_ = addr.items()
        carrier = carrier_of(addr)
        assert carrier is not None
        try:
            listeners = await trio.open_tcp_listeners(int(port), host=host, backlog=_BACKLOG)
            doors += [Door(listener, carrier) for listener in listeners]
            for listener in listeners:
                share_port(listener.socket)
        except OSError as error:
            for door in doors:
                door.listener.socket.close()
            raise ConfigurationError(
                f"cannot listen on {addr}: {error.strerror or error}. Give another address or port; "
                "port 0 takes any free one."
            ) from error
    return doors


def calling_ports(doors: Sequence[Door]) -> CallingPorts:
    """Where calls may come from, so that routers know them as coming from what is listened on."""
    names = [door.listener.socket.getsockname() for door in doors if door.carrier is Carrier.TCP]
    return CallingPorts((str(name[0]), int(name[1])) for name in names)


def listening_addrs(doors: Sequence[Door], peer: PeerId) -> tuple[str, ...]:
    """Full multiaddrs of what is listened on, wildcards replaced by this computer's addresses."""
    found = []
    for door in doors:
        sock = door.listener.socket
        family = "ip4" if sock.family == socket.AF_INET else "ip6"
        host, port = sock.getsockname()[:2]
        for usable in expand_wildcard(family, host):
            found.append(f"/{family}/{usable}/tcp/{port}{door.carrier.value}/p2p/{peer}")
    return tuple(dict.fromkeys(found))


Live = Callable[[YamuxConnection, Callable[[], None]], Awaitable[None]]


class NotAdmitted(MoshgridError):
    """A connection was secured, and there is no place for it."""


class Doorkeeper:
    """Takes connections in, within limits. ``live`` runs one that was secured, and calls when it is over.

    ``expected_at`` names the peer, if any, that calls from a host as a part of a hole punch in which we are
    the client even though the call is its.
    """

    def __init__(
        self,
        upgrade: Upgrade,
        admission: Admission,
        live: Live,
        complaints: Complaints,
        idle: IdleConnections,
        expected_at: Callable[[str], PeerId | None],
    ) -> None:
        self._upgrade = upgrade
        self._admission = admission
        self._live = live
        self._complaints = complaints
        self._expected_at = expected_at
        self._idle = idle

    async def keep(self, door: Door, guests: trio.Nursery) -> None:
        """Accepts for ever; what came in lives in ``guests``."""
        async with door.listener:
            while True:
                try:
                    stream = await door.listener.accept()
                except OSError as error:
                    if error.errno not in _NO_DESCRIPTORS:
                        text = "accepting a connection failed: %s"
                        now = trio.current_time()
                        self._complaints.say(logging.WARNING, "accept", now, text, error)
                    self._admission.make_room()
                    await trio.sleep(_PAUSE_SECONDS)
                    continue
                self._receive(stream, door.carrier, guests)

    def _receive(self, stream: trio.SocketStream, carrier: Carrier, guests: trio.Nursery) -> None:
        scope = trio.CancelScope()
        try:
            address = stream.socket.getpeername()[0]
        except OSError:  # it is gone already
            stream.socket.close()
            return
        guest = self._admission.arrived(address, scope.cancel, trio.current_time())
        if isinstance(guest, Refusal):
            _log.debug("%s was not let in: %s", address, guest.value)
            stream.socket.close()
            return
        guests.start_soon(self._host, stream, carrier, guest, scope)

    async def _host(
        self, stream: trio.SocketStream, carrier: Carrier, guest: Guest, scope: trio.CancelScope
    ) -> None:
        connection: YamuxConnection | None = None
        try:
            with scope:
                if (connection := await self._shake_hands(stream, carrier, guest)) is not None:
                    if not guest.exempt:
                        self._idle.watch(connection, trio.current_time())
                    await self._live(connection, partial(self._gone, guest, connection))
        finally:
            stream.socket.close()
            self._gone(guest, connection)

    def _gone(self, guest: Guest, connection: YamuxConnection | None) -> None:
        if connection is not None and connection.fault is not None and guest.crowd is not None:
            self._admission.offended(guest, connection.peer, trio.current_time())
        self._admission.left(guest)
        if connection is not None:
            self._idle.forget(connection)

    async def _shake_hands(
        self, stream: trio.SocketStream, carrier: Carrier, guest: Guest
    ) -> YamuxConnection | None:
        def authenticated(peer: PeerId) -> None:
            if (refusal := self._admission.authenticate(guest, peer, trio.current_time())) is not None:
                raise NotAdmitted(refusal.value)

        with trio.move_on_after(self._admission.limits.handshake_seconds):
            try:
                called = await self._whom_we_call(stream) if carrier is Carrier.TCP else None
                raw: IRawConnection = over_tcp(stream, called is not None)
                if carrier is Carrier.WEBSOCKET:
                    raw = await accept_websocket(raw)
                return await self._upgrade.connect(raw, called, authenticated)
            except Exception as error:  # the root of this guest's task: a stranger can cause anything
                _log.debug("a connection was not secured: %r", error)
        return None

    async def _whom_we_call(self, stream: trio.SocketStream) -> ID | None:
        """The peer to which we are the client, as the call is a part of a hole punch."""
        expected = self._expected_at(stream.socket.getpeername()[0])
        if expected is None or await proposes_first(stream, self._upgrade.greeting_bytes):
            return None
        return ID.from_base58(expected)
