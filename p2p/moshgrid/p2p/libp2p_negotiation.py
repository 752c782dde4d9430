"""Agreeing on a protocol: of a new stream, of a connection's security, of what runs over that."""

from __future__ import annotations

from collections.abc import Container

from libp2p.abc import ISecureConn
from libp2p.io.exceptions import ConnectionClosedError

from moshgrid.p2p.errors import RemoteProtocolError
from moshgrid.p2p.libp2p_raw_bytes import ChannelBroken, RawBytes
from moshgrid.p2p.libp2p_securing import RawReader
from moshgrid.p2p.multistream import NegotiationFailed, accept, propose
from moshgrid.p2p.network import Stream

__all__ = ["RawLine", "SecureLine", "accept_protocol", "propose_protocol"]


async def propose_protocol(stream: Stream, protocol: str) -> None:
    """Asks for ``protocol``. Raises RemoteProtocolError when the peer does not speak it."""
    try:
        await propose(_StreamLine(stream), [protocol])
    except NegotiationFailed as error:
        raise RemoteProtocolError(stream.peer, f"opening a stream: {error}") from None


async def accept_protocol(stream: Stream, spoken: Container[str]) -> str | None:
    """The first proposed protocol that is in ``spoken``; None when the peer gives up."""
    try:
        return await accept(_StreamLine(stream), spoken)
    except NegotiationFailed as error:
        raise RemoteProtocolError(stream.peer, f"opened a stream and {error}") from None


class _StreamLine:
    """A new stream, for a negotiation."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def send(self, data: bytes) -> None:
        await self._stream.send(data)

    async def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = await self._stream.receive(size - len(data))
            if not piece:
                return b""
            data += piece
        return data


class RawLine:
    """A connection before it is secured. Nothing is read beyond what is asked for."""

    def __init__(self, raw: RawBytes) -> None:
        self._raw = raw
        self._reader = RawReader(raw)

    async def send(self, data: bytes) -> None:
        """Sends all of ``data``. Raises ChannelBroken."""
        await self._raw.send(data)

    async def exactly(self, size: int) -> bytes:
        """``size`` bytes. Raises ChannelBroken, also when the connection ends."""
        return await self._reader.exactly(size)


class SecureLine:
    """A connection that is secured and not yet multiplexed."""

    def __init__(self, secured: ISecureConn) -> None:
        self._secured = secured

    async def send(self, data: bytes) -> None:
        """Sends all of ``data``."""
        await self._secured.write(data)

    async def exactly(self, size: int) -> bytes:
        """``size`` bytes. Raises ChannelBroken when the connection ends."""
        data = b""
        while len(data) < size:
            try:
                piece = await self._secured.read(size - len(data))
            except ConnectionClosedError:
                piece = b""
            if not piece:
                raise ChannelBroken("the peer ended the connection")
            data += piece
        return data
