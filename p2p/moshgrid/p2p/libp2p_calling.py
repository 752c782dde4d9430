"""One dial of one address: a socket, the handshakes, a connection with the peer that was meant."""

from __future__ import annotations

import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID

from moshgrid.p2p.addresses import resolve, split_addr
from moshgrid.p2p.dialling import DialFailed
from moshgrid.p2p.errors import MoshgridError
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.libp2p_failures import explain_failure
from moshgrid.p2p.libp2p_raw_bytes import ChannelBroken
from moshgrid.p2p.libp2p_upgrade import Upgrade
from moshgrid.p2p.libp2p_yamux import YamuxConnection

__all__ = ["Caller"]


class Caller:
    """Connects to multiaddrs."""

    def __init__(self, us: PeerId, upgrade: Upgrade) -> None:
        self._us = us
        self._upgrade = upgrade

    async def call(self, addr: str, peer: PeerId) -> YamuxConnection:
        """A connection, not running yet. Raises DialFailed."""
        if peer == self._us:
            raise DialFailed("is this peer itself")
        places = await resolve(split_addr(addr)[0])
        failure = "the name was not found"
        for host, port in places:
            try:
                return await self._connect(host, port, peer)
            except (BaseLibp2pError, MoshgridError, ChannelBroken, OSError) as error:
                failure = explain_failure(error, peer)
        raise DialFailed(failure)

    async def _connect(self, host: str, port: int, peer: PeerId) -> YamuxConnection:
        stream = await trio.open_tcp_stream(host, port)
        return await self._upgrade.connect(RawConnection(TrioTCPStream(stream), True), ID.from_base58(peer))

    async def hang_up(self, connection: YamuxConnection) -> None:
        """Ends a connection that is not wanted after all."""
        await connection.close()
