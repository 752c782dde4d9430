"""Streams that peers open to us: negotiated within limits, then handed to their handler."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import trio
from libp2p.custom_types import TProtocol
from libp2p.network.stream.net_stream import NetStream, StreamState

from moshgrid.p2p.complaints import Complaints
from moshgrid.p2p.connection_limits import ConnectionLimits
from moshgrid.p2p.errors import RemoteProtocolError, StreamReset
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.libp2p_negotiation import accept_protocol
from moshgrid.p2p.libp2p_stream import Libp2pStream
from moshgrid.p2p.libp2p_yamux import YamuxStream
from moshgrid.p2p.network import StreamHandler
from moshgrid.p2p.serving import serve_stream

__all__ = ["InboundStreams"]

_log = logging.getLogger("moshgrid.p2p")


class InboundStreams:
    """Hands each inbound stream to our handler for its protocol, or to the stock host's own.

    Nothing that a peer or a handler does comes out of ``take``.
    """

    def __init__(self, stock: Mapping[Any, Any], limits: ConnectionLimits, complaints: Complaints) -> None:
        self.handlers: dict[str, StreamHandler] = {}
        self.closed = False
        self._stock = stock
        self._limits = limits
        self._complaints = complaints
        self._open: dict[PeerId, int] = {}

    async def take(self, muxed: YamuxStream) -> None:
        """Serves one stream to its end; so many of one peer at once."""
        stream, peer = Libp2pStream(muxed), muxed.conn.peer
        count = self._open.get(peer, 0)
        if self.closed or count >= self._limits.streams_per_peer:
            await stream.reset()
            return
        self._open[peer] = count + 1
        try:
            await self._serve(stream, muxed)
        finally:
            self._open[peer] -= 1
            if not self._open[peer]:
                del self._open[peer]

    async def _serve(self, stream: Libp2pStream, muxed: YamuxStream) -> None:
        protocol = None
        try:
            with trio.move_on_after(self._limits.negotiation_seconds):
                protocol = await accept_protocol(stream, {*self.handlers, *self._stock})
        except (StreamReset, RemoteProtocolError) as error:
            _log.debug("a new stream failed: %s", error)
        finally:
            if protocol is None:
                await stream.reset()
        if protocol is None:
            return
        stream.protocol = protocol
        if (handler := self.handlers.get(protocol)) is not None:
            await serve_stream(handler, stream, self._complaints)
            return
        net_stream = NetStream(muxed, None, None)
        await net_stream.set_state(StreamState.OPEN)
        net_stream.set_protocol(TProtocol(protocol))
        try:
            await self._stock[protocol](net_stream)
            await stream.close()
        except Exception as error:  # identify and ping are not ours, and must not end the node
            _log.debug("%s: %s: %r", stream.peer, protocol, error)
        finally:
            with trio.CancelScope(shield=True):
                await stream.reset()  # nothing after a close
