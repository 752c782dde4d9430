"""A ``Stream`` over a yamux stream, with honest ends: only the peer's own end is a clean one."""

from __future__ import annotations

import contextlib

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
        view = memoryview(data).cast("B")
        at = 0
        while at < len(view):
            self._check()
            at += await self._conn.write_some(self._muxed, view[at:])

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

        What the peer still sends is read and dropped in the background, at most for some seconds: a
        stream left half open would hold up the peer's sending and keep its place on the connection.
        """
        if self._gone is not None or self._conn.over.is_set() or self._muxed.reset_received:
            self._gone = self._gone or "the stream is over"
            return
        ended_there = self._muxed.recv_closed
        with contextlib.suppress(StreamReset):  # it was lost this moment
            await self.close_write()
        self._gone = "closed here"
        if ended_there:
            await self._free()
        else:
            self._conn.run_soon(self._linger)

    async def _linger(self) -> None:
        muxed, conn = self._muxed, self._conn
        with trio.move_on_after(_LINGER_SECONDS):
            while not (muxed.recv_closed or muxed.reset_received or conn.over.is_set()):
                event = conn.stream_events.get(muxed.stream_id)
                if muxed.take(1 << 20):
                    continue
                if event is None:
                    return
                await event.wait()
                if conn.stream_events.get(muxed.stream_id) is event:
                    conn.stream_events[muxed.stream_id] = trio.Event()
        if muxed.recv_closed:
            await self._free()
        elif not conn.over.is_set():
            await muxed.reset()

    async def reset(self) -> None:
        """Aborts both directions; does nothing to a stream that was closed or reset."""
        if self._gone is not None:
            return
        self._gone = "reset here"
        self._muxed.news.set()
        event = self._conn.stream_events.get(self._muxed.stream_id)
        if not self._conn.over.is_set():
            with trio.CancelScope(shield=True):
                await self._muxed.reset()
        if event is not None:
            event.set()

    async def _free(self) -> None:
        # Nobody reads what is left: without it the stock code lets go of the stream at once.
        self._conn.stream_buffers.pop(self._muxed.stream_id, None)
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
