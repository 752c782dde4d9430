"""One dial of one address: a socket, the handshakes, a connection with the peer that was meant."""

from __future__ import annotations

import logging
from weakref import WeakKeyDictionary

import trio
from libp2p.abc import IRawConnection
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from moshgrid.p2p.addresses import Carrier, carrier_of, relay_of, resolve, split_addr
from moshgrid.p2p.calling_port import BUSY, CallingPorts, connect_from
from moshgrid.p2p.contacts import Contacts
from moshgrid.p2p.dial_rules import DialRules
from moshgrid.p2p.dialling import DialFailed
from moshgrid.p2p.errors import MoshgridError
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.ip_ranges import is_home
from moshgrid.p2p.last_used import LastUsed
from moshgrid.p2p.libp2p_circuits import Circuits
from moshgrid.p2p.libp2p_failures import explain_failure
from moshgrid.p2p.libp2p_raw_bytes import ChannelBroken
from moshgrid.p2p.libp2p_securing import PeerMismatch
from moshgrid.p2p.libp2p_tcp import over_tcp
from moshgrid.p2p.libp2p_upgrade import Upgrade
from moshgrid.p2p.libp2p_websocket import call_web_tls, call_websocket
from moshgrid.p2p.libp2p_yamux import YamuxConnection
from moshgrid.p2p.reachability import Family, family_of

__all__ = ["Caller"]

_log = logging.getLogger("moshgrid.p2p")


_MAX_TRUSTED = 1024
_ELSEWHERE = "is an address within some home or on some computer, not known to be ours: not dialled"


class Caller:
    """Connects to multiaddrs."""

    def __init__(
        self, us: PeerId, upgrade: Upgrade, circuits: Circuits, ports: CallingPorts, rules: DialRules
    ) -> None:
        self._us = us
        self._upgrade = upgrade
        self._circuits = circuits
        self.ports = ports
        self.contacts = Contacts()
        self.rules = rules
        self.trusted: LastUsed[str, None] = LastUsed(_MAX_TRUSTED)
        """Addresses that the user named, not a stranger; they may be anywhere."""
        self.proven: frozenset[Family] = frozenset()
        """Families over which everybody reaches us. Over the others the world is called from the port that is
        listened on, so that others see how a router maps it. Who knows that it can be reached needs that no
        more, and two who call each other at the same moment, both from there, get one connection without a
        server."""
        self.called_from: WeakKeyDictionary[YamuxConnection, int] = WeakKeyDictionary()
        """The listening port from which each of these connections was called."""

    async def call(self, addr: str, peer: PeerId) -> YamuxConnection:
        """A connection, not running yet. Raises DialFailed."""
        if peer == self._us:
            raise DialFailed("is this peer itself")
        if (relay := relay_of(addr)) is not None:
            await self._check_relay(addr, relay)
            return await self._circuits.call(addr, peer)
        place, _ = split_addr(addr)
        failure = "the name was not found"
        for host, port in await resolve(place):
            if addr not in self.trusted and not self.rules.allow(peer, host):
                failure = _ELSEWHERE
                continue
            try:
                return await self._call_host(place, host, port, ID.from_base58(peer))
            except (BaseLibp2pError, MoshgridError, ChannelBroken, OSError) as error:
                failure = explain_failure(error, peer)
        raise DialFailed(failure)

    async def _check_relay(self, addr: str, relay: str) -> None:
        if addr in self.trusted or relay in self.trusted:
            return
        place, peer = split_addr(relay)
        hosts = [host for host, _ in await resolve(place)]
        if not all(self.rules.allow(peer, host) for host in hosts):
            raise DialFailed(_ELSEWHERE)

    async def _call_host(self, place: Multiaddr, host: str, port: int, peer: ID) -> YamuxConnection:
        self.contacts.called(host)
        source = None
        if family_of(host) not in self.proven and carrier_of(place) is Carrier.TCP and not is_home(host):
            source = self.ports.towards(host)
        if source is not None:
            try:
                raw = over_tcp(await connect_from(source, host, port), True)
                connection = await self._upgrade.connect(raw, peer)
            except OSError as error:
                if error.errno not in BUSY:
                    raise
            except PeerMismatch:
                raise
            except (BaseLibp2pError, MoshgridError, ChannelBroken) as error:
                _log.debug("%s: once more from another port, as the first time %r", peer, error)
            else:
                self.called_from[connection] = source[1]
                return connection
        return await self._upgrade.connect(await _connect(place, host, port), peer)

    async def call_back(self, host: str, port: int, peer: PeerId) -> YamuxConnection:
        """A new connection from any port, even where there is one; not running yet. Raises DialFailed."""
        self.contacts.called(host)
        try:
            raw = over_tcp(await connect_from(None, host, port), True)
            return await self._upgrade.connect(raw, ID.from_base58(peer))
        except (BaseLibp2pError, MoshgridError, ChannelBroken, OSError) as error:
            raise DialFailed(explain_failure(error, peer)) from error

    async def hang_up(self, connection: YamuxConnection) -> None:
        """Ends a connection that is not wanted after all."""
        await connection.close()


async def _connect(place: Multiaddr, host: str, port: int) -> IRawConnection:
    """Bytes to ``place``, one of whose addresses is ``host`` and ``port``."""
    carrier = carrier_of(place)
    stream = await trio.open_tcp_stream(host, port)
    if carrier is Carrier.TCP:
        return over_tcp(stream, True)
    # A web server may serve several names: both TLS and HTTP say which one is meant.
    (_, name), *_ = place.items()
    name = str(name)
    raw: IRawConnection = over_tcp(stream, True)
    if carrier is Carrier.WEB_TLS:
        raw = await call_web_tls(stream, name)
    return await call_websocket(raw, f"[{name}]:{port}" if ":" in name else f"{name}:{port}")
