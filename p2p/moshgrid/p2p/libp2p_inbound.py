"""Streams that peers open to us: negotiated within limits, then handed to their handler."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.network.stream.net_stream import NetStream

from moshgrid.p2p.errors import RemoteProtocolError, StreamReset
from moshgrid.p2p.libp2p_negotiation import accept_protocol
from moshgrid.p2p.libp2p_stream import Libp2pStream
from moshgrid.p2p.libp2p_yamux import YamuxConnection, YamuxStream
from moshgrid.p2p.network import StreamHandler
from moshgrid.p2p.serving import serve_stream

__all__ = ["InboundStreams"]

_log = logging.getLogger("moshgrid.p2p")

_NEGOTIATION_SECONDS = 10.0
_MAX_STREAMS = 256


class InboundStreams:
    """Hands each inbound stream to our handler for its protocol, or to the stock host's own.

    Nothing that a peer or a handler does comes out of ``take``: stock code would end the host with it.
    """

    def __init__(self, stock: Mapping[Any, Any]) -> None:
        self.handlers: dict[str, StreamHandler] = {}
        self.closed = False
        self._stock = stock
        self._open: dict[YamuxConnection, int] = {}

    async def take(self, net_stream: INetStream) -> None:
        """Serves one stream to its end; at most 256 of one connection at once."""
        assert isinstance(net_stream, NetStream)
        muxed = YamuxStream.adopt(net_stream.muxed_stream)
        stream, connection = Libp2pStream(muxed), muxed.conn
        count = self._open.get(connection, 0)
        if self.closed or count >= _MAX_STREAMS:
            await stream.reset()
            return
        self._open[connection] = count + 1
        try:
            await self._serve(stream, net_stream)
        finally:
            self._open[connection] -= 1
            if not self._open[connection]:
                del self._open[connection]

    async def _serve(self, stream: Libp2pStream, net_stream: NetStream) -> None:
        protocol = None
        try:
            with trio.move_on_after(_NEGOTIATION_SECONDS):
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
            await serve_stream(handler, stream)
            return
        net_stream.set_protocol(TProtocol(protocol))
        try:
            await self._stock[protocol](net_stream)
        except Exception as error:  # identify and ping are not ours, and must not end the node
            _log.debug("%s: %s: %r", stream.peer, protocol, error)
            await net_stream.reset()
