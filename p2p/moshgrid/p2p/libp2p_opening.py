"""New streams: on the best connection with a peer, which is dialled when there is none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.stream_muxer.exceptions import MuxedStreamError

from moshgrid.p2p.errors import Unreachable
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.libp2p_connections import Connections
from moshgrid.p2p.libp2p_negotiation import propose_protocol
from moshgrid.p2p.libp2p_stream import Libp2pStream
from moshgrid.p2p.libp2p_yamux import YamuxConnection

__all__ = ["Opening", "open_on"]

_OPEN_SECONDS = 10.0
_MAX_TRIED = 8
"""As many connections with one peer as there may be."""


class Opening:
    """``addrs_of`` names a peer's addresses, and ``reach`` connects to one of them or raises Unreachable."""

    def __init__(
        self,
        connections: Connections,
        addrs_of: Callable[[PeerId], Sequence[str]],
        reach: Callable[[PeerId, Sequence[str]], Awaitable[None]],
    ) -> None:
        self._connections = connections
        self._addrs_of = addrs_of
        self._reach = reach

    async def open_stream(self, peer: PeerId, protocol: str) -> Libp2pStream:
        """A new stream, over a new connection when there is none. Raises Unreachable, RemoteProtocolError."""
        attempts: list[tuple[str, str]] = []
        tried: list[YamuxConnection] = []
        dialled = 0
        # A connection may end just when it is to be used again, for being idle or for leading nowhere, and
        # another come about meanwhile.
        while len(tried) < _MAX_TRIED:
            untried = [each for each in self._connections.usable(peer) if each not in tried]
            if untried:
                tried.append(untried[0])
                try:
                    return await open_on(untried[0], protocol)
                except Unreachable as error:
                    attempts += error.attempts
            elif self._connections.usable(peer) or dialled == 2 or (attempts and not self._addrs_of(peer)):
                break
            else:
                dialled += 1
                await self._reach(peer, self._addrs_of(peer))
        raise Unreachable(peer, attempts or [(protocol, "the connection was lost")])


async def open_on(connection: YamuxConnection, protocol: str) -> Libp2pStream:
    """A new stream on this very connection. Raises Unreachable, RemoteProtocolError."""
    if not connection.has_room:
        raise Unreachable(connection.peer, [(protocol, "as many streams to this peer as may be are open")])
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
