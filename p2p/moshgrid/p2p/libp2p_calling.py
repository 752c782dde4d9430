"""One dial of one address: a socket, the handshakes, a connection with the peer that was meant."""

from __future__ import annotations

import trio
from libp2p.abc import IRawConnection
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from moshgrid.p2p.addresses import Carrier, carrier_of, relay_of, resolve, split_addr
from moshgrid.p2p.dialling import DialFailed
from moshgrid.p2p.errors import MoshgridError
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.libp2p_circuits import Circuits
from moshgrid.p2p.libp2p_failures import explain_failure
from moshgrid.p2p.libp2p_raw_bytes import ChannelBroken
from moshgrid.p2p.libp2p_upgrade import Upgrade
from moshgrid.p2p.libp2p_websocket import call_web_tls, call_websocket
from moshgrid.p2p.libp2p_yamux import YamuxConnection

__all__ = ["Caller"]


class Caller:
    """Connects to multiaddrs."""

    def __init__(self, us: PeerId, upgrade: Upgrade, circuits: Circuits) -> None:
        self._us = us
        self._upgrade = upgrade
        self._circuits = circuits

    async def call(self, addr: str, peer: PeerId) -> YamuxConnection:
        """A connection, not running yet. Raises DialFailed."""
        if peer == self._us:
            raise DialFailed("is this peer itself")
        if relay_of(addr) is not None:
            return await self._circuits.call(addr, peer)
        place, _ = split_addr(addr)
        failure = "the name was not found"
        for host, port in await resolve(place):
            try:
                raw = await _connect(place, host, port)
                return await self._upgrade.connect(raw, ID.from_base58(peer))
            except (BaseLibp2pError, MoshgridError, ChannelBroken, OSError) as error:
                failure = explain_failure(error, peer)
        raise DialFailed(failure)

    async def hang_up(self, connection: YamuxConnection) -> None:
        """Ends a connection that is not wanted after all."""
        await connection.close()


async def _connect(place: Multiaddr, host: str, port: int) -> IRawConnection:
    """Bytes to ``place``, one of whose addresses is ``host`` and ``port``."""
    carrier = carrier_of(place)
    stream = await trio.open_tcp_stream(host, port)
    if carrier is Carrier.TCP:
        return RawConnection(TrioTCPStream(stream), True)
    # A web server may serve several names: both TLS and HTTP say which one is meant.
    (_, name), *_ = place.items()
    name = str(name)
    raw: IRawConnection = RawConnection(TrioTCPStream(stream), True)
    if carrier is Carrier.WEB_TLS:
        raw = await call_web_tls(stream, name)
    return await call_websocket(raw, f"[{name}]:{port}" if ":" in name else f"{name}:{port}")
