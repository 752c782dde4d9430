"""A ``Stream`` over a yamux stream, with honest ends: only the peer's own end is a clean one."""

from __future__ import annotations

import trio

from moshgrid.p2p.errors import LocalProtocolError, StreamReset
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.libp2p_yamux import YamuxConnection, YamuxStream

__all__ = ["Libp2pStream"]

_LINGER_SECONDS = 10.0


class Libp2pStream:
    """One stream; ``protocol`` is set once it was negotiated."""

    def __init__(self, muxed: YamuxStream) -> None:
        self._muxed = muxed
        self._conn: YamuxConnection = muxed.conn
        self._ended_here = False
        self._clean_end = False
        self._gone: str | None = None
        self.protocol = ""

    @property
    def peer(self) -> PeerId:
        """The authenticated peer at the other end."""
        return self._conn.peer

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Sends all of ``data``."""
        await trio.lowlevel.checkpoint()
        if self._ended_here and self._gone is None:
            raise LocalProtocolError("send after close_write")
        with memoryview(data) as whole, whole.cast("B") as view:
            at = 0
            while at < len(view):
                self._check()
                sent = await self._conn.write_some(self._muxed, view[at:])
                if not sent:
                    raise self._reset_error("the peer reset the stream")
                at += sent

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """What has arrived, or ``b""`` after the peer's clean end."""
        await trio.lowlevel.checkpoint()
        muxed, conn = self._muxed, self._conn
        while True:
            if self._gone is not None:
                raise self._reset_error(self._gone)
            if data := muxed.take(max_bytes):
                return data
            if muxed.leftover is not None:
                data, muxed.leftover = muxed.leftover[:max_bytes], muxed.leftover[max_bytes:]
                return data
            if self._clean_end:
                return b""
            if conn.over.is_set():
                raise self._reset_error("the connection was lost")
            if muxed.reset_received:
                raise self._reset_error("the peer reset the stream")
            if muxed.recv_closed:
                self._clean_end = True
                await self._free_if_over()
                return b""
            event = conn.stream_events.get(muxed.stream_id)
            if event is None:
                raise self._reset_error("the stream is over")
            await event.wait()
            if conn.stream_events.get(muxed.stream_id) is event:
                conn.stream_events[muxed.stream_id] = trio.Event()

    async def close_write(self) -> None:
        """Tells the peer that nothing more comes."""
        await trio.lowlevel.checkpoint()
        self._check()
        if not self._ended_here:
            self._ended_here = True
            with trio.CancelScope(shield=True):
                await self._muxed.close()

    async def close(self) -> None:
        """Ends both directions in good order.

        What the peer still sends is read and dropped, at most for some seconds: a stream that was
        left half open would keep its place on the connection and hold up the peer's sending.
        """
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _LINGER_SECONDS):
            try:
                await self.close_write()
                while await self.receive():
                    pass
            except StreamReset:
                pass
        await self.reset()

    async def reset(self) -> None:
        """Aborts both directions; does nothing to a stream that has ended on both sides."""
        if self._gone is not None:
            return
        ended = self._ended_here and self._clean_end
        self._gone = "closed here"
        self._muxed.news.set()
        with trio.CancelScope(shield=True):
            if not ended and not self._conn.over.is_set():
                await self._muxed.reset()
            if (event := self._conn.stream_events.get(self._muxed.stream_id)) is not None:
                event.set()

    async def _free_if_over(self) -> None:
        if self._ended_here:
            with trio.CancelScope(shield=True):
                await self._conn._finalize_stream(self._muxed, fully_closed=True)

    def _check(self) -> None:
        if self._gone is not None:
            raise self._reset_error(self._gone)
        if self._conn.over.is_set():
            raise self._reset_error("the connection was lost")
        if self._muxed.reset_received:
            raise self._reset_error("the peer reset the stream")

    def _reset_error(self, reason: str) -> StreamReset:
        return StreamReset(self.peer, [(self.protocol or "a new stream", reason)])
