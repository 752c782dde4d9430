"""WebSockets below everything else, for networks that let only web traffic out: bytes like any other.

What is above (a private network's cipher, security, multiplexing, all limits) does not notice. ``wss`` is the
caller's only: whoever wants to be called so puts a web server that ends TLS before a ``ws`` listener.
"""

from __future__ import annotations

import contextlib
import ssl

import trio
from libp2p.abc import IRawConnection
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection

from moshgrid.p2p.buffer_pool import borrowed_buffer
from moshgrid.p2p.libp2p_layered_connection import LayeredConnection
from moshgrid.p2p.libp2p_raw_bytes import STALL_SECONDS, ChannelBroken, RawBytes, raw_bytes_of
from moshgrid.p2p.websocket import WebSocketEnd, WebSocketFault

__all__ = ["WebTlsFailed", "accept_websocket", "call_web_tls", "call_websocket"]

_GOODBYE_SECONDS = 1.0
_LEAST_READ = 512
_FRAME_BYTES = 14
"""A frame's header."""


class WebTlsFailed(ChannelBroken):
    """The web server's certificate was not accepted, or it speaks no TLS; the text says which."""


async def accept_websocket(raw: IRawConnection) -> IRawConnection:
    """The connection as a WebSocket that the other side asks for. Raises ChannelBroken."""
    return await _shake_hands(raw, WebSocketEnd(None, trio.current_time()))


async def call_websocket(raw: IRawConnection, host: str) -> IRawConnection:
    """The connection as a WebSocket that we ask ``host`` (as HTTP names it) for. Raises ChannelBroken."""
    return await _shake_hands(raw, WebSocketEnd(host, trio.current_time()))


async def _shake_hands(raw: IRawConnection, end: WebSocketEnd) -> IRawConnection:
    framed = WebSocketBytes(raw_bytes_of(raw), end)
    await framed.open()
    return LayeredConnection(raw, framed, "/ws")


async def call_web_tls(stream: trio.SocketStream, server: str) -> IRawConnection:
    """TLS as a web browser speaks it, with ``server``'s certificate checked. Raises WebTlsFailed."""
    secured = trio.SSLStream(
        stream, ssl.create_default_context(), server_hostname=server, https_compatible=True
    )
    try:
        await secured.do_handshake()
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(stream)
        cause = error.__cause__
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise WebTlsFailed(f"its certificate is not accepted: {cause.verify_message}") from error
        raise WebTlsFailed("does not speak TLS as web servers do") from error
    return RawConnection(_WebTls(secured, stream), True)


class _WebTls(ReadWriteCloser):
    """A TLS stream where py-libp2p expects one of its own."""

    def __init__(self, secured: trio.SSLStream, stream: trio.SocketStream) -> None:
        self._secured = secured
        self._address: tuple[str, int] = stream.socket.getpeername()[:2]

    async def read(self, n: int | None = None) -> bytes:
        return await self._secured.receive_some(n)

    async def write(self, data: bytes) -> None:
        with trio.move_on_after(STALL_SECONDS) as scope:
            await self._secured.send_all(data)
        if scope.cancelled_caught:
            raise ConnectionClosedError(f"the peer took no bytes for {STALL_SECONDS:g} s")

    async def close(self) -> None:
        await self._secured.aclose()

    def get_remote_address(self) -> tuple[str, int] | None:
        return self._address


class WebSocketBytes:
    """``RawBytes`` in binary messages. Waiting it holds no more than a small read has left over."""

    def __init__(self, raw: RawBytes, end: WebSocketEnd) -> None:
        self._raw = raw
        self._end = end
        self._sending = trio.Lock()

    async def open(self) -> None:
        """Shakes hands; what fails is closed. Raises ChannelBroken."""
        done = False
        try:
            while not self._end.is_open:
                await self._reply()
                await self._raw.wait()
                self._read(_LEAST_READ)
            await self._reply()
            done = True
        except WebSocketFault as fault:
            await self._raw.send(fault.reply)
            raise ChannelBroken(f"the peer {fault}") from fault
        finally:
            if not done:
                with trio.CancelScope(shield=True):
                    await self._raw.close()

    async def wait(self) -> None:
        """Waits for bytes, having answered pings."""
        with contextlib.suppress(ChannelBroken):  # what came before the end may be read still
            await self._reply()
        if self._end.has_payload or self._end.ended or self._end.more:
            await trio.lowlevel.checkpoint()
        else:
            await self._raw.wait()

    async def _reply(self) -> None:
        # Whoever is sending takes the replies along. Cancelled in the midst, a frame would be cut.
        if not self._sending.locked() and (replies := self._end.take_replies()):
            async with self._sending:
                with trio.CancelScope(shield=True):
                    await self._raw.send(replies)

    def read_into(self, buffer: memoryview) -> int | None:
        """What the messages carry. An end without a goodbye is an error."""
        end = self._end
        try:
            if end.more and not end.has_payload:
                end.advance(trio.current_time())
            elif not end.has_payload and not end.ended:
                self._read(len(buffer) + _FRAME_BYTES)
        except WebSocketFault as fault:
            raise ChannelBroken(f"the peer {fault}") from fault
        if end.has_payload:
            return end.take(buffer)
        return 0 if end.ended else None

    def _read(self, most: int) -> None:
        """No more than is asked for, about: what a stranger sends is not kept."""
        with borrowed_buffer() as piece:
            size = self._raw.read_into(piece[: max(_LEAST_READ, most)])
            if size is None:
                return
            if size == 0:
                raise ChannelBroken("the connection was cut short")
            data = bytes(piece[:size])
        self._end.receive(data, trio.current_time())

    async def send(self, data: bytes | memoryview) -> None:
        """Sends all of ``data`` as one message."""
        async with self._sending:
            replies = self._end.take_replies()
            try:
                message = self._end.frame(data)
            except WebSocketFault as fault:
                raise ChannelBroken(f"the peer {fault}") from fault
            await self._raw.send(replies + message)

    async def close(self) -> None:
        """Says goodbye, unless somebody is stuck in sending, and closes the connection."""
        try:
            if not self._sending.locked() and (goodbye := self._end.take_replies() + self._end.goodbye()):
                with trio.move_on_after(_GOODBYE_SECONDS):
                    await self._raw.send(goodbye)
        except ChannelBroken:
            pass  # it is gone, which is what was wanted
        finally:
            await self._raw.close()
