"""py-libp2p's yamux with a writer task of its own: cancelling a sender never cuts a frame in half.

Stock frames, stock parsing. What differs: all frames leave through one queue, so neither a cancelled
caller nor a full socket can break or block the reading side; window waits are woken, not polled; a
peer that answers no ping is given up; and the end of the connection is announced once, at once.
"""

from __future__ import annotations

import logging
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import trio
from libp2p.abc import IMuxedConn, ISecureConn
from libp2p.custom_types import TProtocol
from libp2p.io.exceptions import ConnectionClosedError, IOException
from libp2p.network.connection.exceptions import RawConnError
from libp2p.peer.id import ID
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux import yamux as stock

from moshgrid.p2p.identity import PeerId, peer_id_from_bytes

__all__ = ["ConnectionWatcher", "YamuxConnection", "YamuxStream", "YamuxUpgrade"]

_log = logging.getLogger("moshgrid.p2p")

_MAX_PAYLOAD = 60 * 1024  # with a few control frames still one Noise message of 64 KiB
_MAX_CONTROL = 4096  # frames a peer can make us queue by not reading while it asks for answers
_WRITE_SECONDS = 30.0
_PING_SECONDS = 15.0
_PONG_SECONDS = 45.0
_GOODBYE_SECONDS = 1.0
_MAX_WINDOW = 4 * 1024 * 1024


class YamuxStream(stock.YamuxStream):
    """A stock stream that wakes its sender when the window opens or the stream ends."""

    conn: YamuxConnection
    news: trio.Event
    leftover: bytes | None
    """What was received before a clean end when the connection went away; None without a clean end."""

    @property
    def send_window(self) -> int:
        """Bytes that the peer still takes."""
        return self._send_window

    @send_window.setter
    def send_window(self, value: int) -> None:
        self._send_window = value
        self.news.set()

    @property
    def closed(self) -> bool:
        """True when both directions are over."""
        return self._closed

    @closed.setter
    def closed(self, value: bool) -> None:
        self._closed = value
        self.news.set()

    @classmethod
    def adopt(cls, stream: Any) -> YamuxStream:
        """Turns a stream that stock code made into one of these."""
        # Stock yamux names its stream class in two long functions; changing the class of the object
        # is less than copying both.
        if not isinstance(stream, cls):
            window, closed = stream.__dict__.pop("send_window"), stream.__dict__.pop("closed")
            stream.__class__ = cls
            stream.news = trio.Event()
            stream.leftover = None
            stream.send_window, stream.closed = window, closed
        return stream  # type: ignore[no-any-return]

    def take(self, max_bytes: int) -> bytes:
        """What is buffered, at most ``max_bytes``, giving the peer new credit; may be empty."""
        buffer = self.conn.stream_buffers.get(self.stream_id)
        if not buffer:
            return b""
        data = bytes(buffer[:max_bytes])
        del buffer[: len(data)]
        owed = self.target_recv_window - (self.recv_window + len(buffer))
        if owed >= self.target_recv_window // 2 and not self.recv_closed:
            grant = self._grow_to_delta(len(buffer))
            if self.target_recv_window < _MAX_WINDOW:
                grant += self._apply_autotune_epoch(len(buffer))
            self.conn.post(stock.TYPE_WINDOW_UPDATE, 0, self.stream_id, grant)
        return data


class ConnectionWatcher(Protocol):
    """Is told when authenticated connections begin and end."""

    def connection_began(self, connection: YamuxConnection) -> None:
        """Streams can be opened from now on."""

    def connection_ended(self, connection: YamuxConnection) -> None:
        """No stream of it lives any more."""


class YamuxConnection(stock.Yamux):
    """A stock connection with its own writer, keep-alive, and one clear end."""

    def __init__(self, secured: ISecureConn, peer: ID, watcher: ConnectionWatcher) -> None:
        super().__init__(secured, peer, is_initiator=secured.is_initiator, on_close=_nothing)
        self.peer: PeerId = peer_id_from_bytes(peer.to_bytes())
        self.over = trio.Event()
        self._watcher = watcher
        self._frames: deque[bytes] = deque()
        self._data_queued = False
        self._queued = trio.Event()
        self._taken = trio.Event()
        self._idle = trio.Event()
        self._turn = trio.Lock()
        self._cleaned = False

    # Frames out.

    def post(self, kind: int, flags: int, stream_id: int, value: int) -> None:
        """Queues a frame without payload."""
        self._queue(struct.pack(stock.YAMUX_HEADER_FORMAT, 0, kind, flags, stream_id, value))

    async def _write_frame(self, data: bytes) -> None:
        # Stock code calls this from its reading loop too, which must never wait for the socket.
        if self.over.is_set():
            raise ConnectionClosedError("the connection is over")
        self._queue(data)

    def _queue(self, frame: bytes) -> None:
        if self.over.is_set():
            return
        if len(self._frames) > _MAX_CONTROL:
            self._end()
            return
        self._frames.append(frame)
        if self._idle.is_set():
            self._idle = trio.Event()
        self._queued.set()

    async def write_some(self, stream: YamuxStream, data: memoryview) -> int:
        """Queues a first part of ``data`` as soon as the window and the socket take it.

        Returns its length; 0 is for the caller to look again whether the stream still lives. Cancelling
        is safe.
        """
        while True:
            while stream.send_window <= 0 and not self._is_dead(stream):
                stream.news = trio.Event()
                await stream.news.wait()
            async with self._turn:
                while self._data_queued and not self.over.is_set():
                    await self._taken.wait()
                if self._is_dead(stream):
                    return 0
                size = min(stream.send_window, len(data), _MAX_PAYLOAD)
                if size <= 0:
                    continue
                stream.send_window -= size
                self._data_queued = True
                self._taken = trio.Event()
                header = struct.pack(stock.YAMUX_HEADER_FORMAT, 0, stock.TYPE_DATA, 0, stream.stream_id, size)
                self._queue(header + data[:size])
                return size

    def _is_dead(self, stream: YamuxStream) -> bool:
        return self.over.is_set() or stream.closed or stream.reset_received

    async def _write_loop(self) -> None:
        try:
            while not self.over.is_set():
                if not self._frames:
                    self._queued = trio.Event()
                    self._idle.set()
                    await self._queued.wait()
                batch = b"".join(self._frames)
                self._frames.clear()
                self._data_queued = False
                self._taken.set()
                with trio.fail_after(_WRITE_SECONDS):
                    await self.secured_conn.write(batch)
        except (trio.TooSlowError, IOException, RawConnError, OSError) as error:
            _log.debug("%s: the connection takes no more: %r", self.peer, error)
        finally:
            self._end()

    # Life and end.

    async def start(self) -> None:
        """Runs the connection until it is over."""
        self._watcher.connection_began(self)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_loop)
                nursery.start_soon(self._stop_when_over, nursery.cancel_scope)
                await super().start()
                self._end()
        except Exception:  # the root of this connection's task: it ends, the node does not
            _log.exception("%s: the connection failed", self.peer)
        finally:
            await self._cleanup_on_error()
            self.event_started.set()  # whoever waits for the start must not wait for ever

    async def _stop_when_over(self, scope: trio.CancelScope) -> None:
        await self.over.wait()
        scope.cancel()

    async def _measure_rtt_loop(self) -> None:
        while not self.over.is_set():
            self._ping_id += 1
            self._ping_event = trio.Event()
            self._ping_sent_time = trio.current_time()
            self.post(stock.TYPE_PING, stock.FLAG_SYN, 0, self._ping_id)
            with trio.move_on_after(_PONG_SECONDS):
                await self._ping_event.wait()
            if not self._ping_event.is_set():
                _log.debug("%s: no sign of life for %g s", self.peer, _PONG_SECONDS)
                self._end()
            with trio.move_on_after(_PING_SECONDS):
                await self.over.wait()

    def run_soon(self, fn: Callable[[], Awaitable[None]]) -> None:
        """Runs ``fn`` in a task that ends with the connection."""
        if self._nursery is not None and not self.over.is_set():
            self._nursery.start_soon(fn)

    async def open_stream(self) -> YamuxStream:
        """A new stream; 256 of ours at once."""
        # Shielded, because stock code loses one of its 256 places when cancelled; it never waits long.
        with trio.CancelScope(shield=True):
            return YamuxStream.adopt(await super().open_stream())

    @property
    def has_room(self) -> bool:
        """False when ``open_stream`` would have to wait for another stream's end."""
        return bool(self.stream_backlog_semaphore.value)

    async def accept_stream(self) -> YamuxStream:
        """The next stream that the peer opened."""
        return YamuxStream.adopt(await super().accept_stream())

    async def close(self, error_code: int = stock.GO_AWAY_NORMAL) -> None:
        """Says goodbye and ends the connection."""
        if not self.over.is_set():
            self.post(stock.TYPE_GO_AWAY, 0, 0, error_code)
            with trio.move_on_after(_GOODBYE_SECONDS):
                await self._idle.wait()
        await self._cleanup_on_error()

    async def _cleanup_on_error(self) -> None:
        self._end()
        if not self._cleaned:
            self._cleaned = True
            with trio.CancelScope(shield=True):  # closes the socket and takes the connection off the books
                await super()._cleanup_on_error()

    def _end(self) -> None:
        if self.over.is_set():
            return
        for stream_id, stream in self.streams.items():
            if isinstance(stream, YamuxStream):
                if stream.recv_closed and not stream.reset_received:
                    stream.leftover = bytes(self.stream_buffers.get(stream_id, b""))
                stream.news.set()
            if (event := self.stream_events.get(stream_id)) is not None:
                event.set()
        self.event_shutting_down.set()
        self.over.set()
        self._queued.set()
        self._taken.set()
        self._idle.set()
        self._watcher.connection_ended(self)


async def _nothing() -> None:
    pass


class YamuxUpgrade(MuxerMultistream):
    """Negotiates yamux and builds our connection; stock code builds its own whatever it is given."""

    def __init__(self, watcher: ConnectionWatcher) -> None:
        super().__init__({TProtocol(stock.PROTOCOL_ID): stock.Yamux}, negotiate_timeout=10)
        self._watcher = watcher

    async def new_conn(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        """The muxed connection over a secured one."""
        protocol, _ = await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout)
        return self._annotate_connection(YamuxConnection(conn, peer_id, self._watcher), conn, protocol)
