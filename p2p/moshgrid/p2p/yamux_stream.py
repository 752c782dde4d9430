"""One yamux stream's state: what is to be sent, what has come, and how each direction ended."""

from __future__ import annotations

from collections import deque

from moshgrid.p2p.yamux_frames import INITIAL_WINDOW
from moshgrid.p2p.yamux_window import ReceiveWindow

__all__ = ["StreamState"]

_SMALL = 8192
_PACK = 65536


class StreamState:
    """What both ends of one stream have done. Changed by its session only; others read it.

    ``owner`` is whatever the driver keeps for this stream.
    """

    __slots__ = (
        "_chunks", "_outgoing", "_sink", "_sunk", "buffered", "discarding", "end_queued", "end_sent",
        "ended_there", "id", "in_flight", "in_turn", "inbound", "lost", "owner", "queued", "send_window",
        "window",
    )  # fmt: skip

    def __init__(self, stream_id: int, inbound: bool, now: float) -> None:
        self.id = stream_id
        self.inbound = inbound
        self.owner: object = None
        self.window = ReceiveWindow(now)
        self.send_window = INITIAL_WINDOW
        self.queued = 0
        """Bytes that wait to be put into frames."""
        self.in_flight = False
        """True while frames that point into the sender's memory are being written."""
        self.in_turn = False
        self.end_queued = False
        self.end_sent = False
        self.ended_there = False
        """The peer's clean end came; what is buffered comes before it."""
        self.lost: str | None = None
        """Why nothing can be sent any more, nor received but what is buffered."""
        self.discarding = False
        """Nobody reads any more: what comes is dropped."""
        self.buffered = 0
        self._outgoing: deque[bytes | memoryview] = deque()
        self._chunks: deque[bytes | bytearray | memoryview] = deque()
        self._sink: memoryview | None = None
        self._sunk = 0

    # Out.

    @property
    def can_send(self) -> bool:
        """True when a frame of this stream can go now."""
        if self.lost is not None:
            return False
        if self.queued:
            return self.send_window > 0
        return self.end_queued and not self.end_sent

    @property
    def is_over(self) -> bool:
        """True when neither side will say anything more."""
        return self.lost is not None or (self.end_sent and self.ended_there)

    def queue(self, chunk: bytes | memoryview) -> None:
        """Adds to what is to be sent."""
        if len(chunk):
            self._outgoing.append(chunk)
            self.queued += len(chunk)

    def withdraw(self, count: int) -> None:
        """Takes back the last ``count`` bytes, or what is left of them."""
        count = min(count, self.queued)
        self.queued -= count
        while count:
            last = self._outgoing.pop()
            if len(last) > count:
                self._outgoing.append(memoryview(last)[: len(last) - count])
                return
            count -= len(last)

    def take_out(self, size: int) -> list[bytes | memoryview]:
        """The next ``size`` bytes to send, in as many pieces as they were given."""
        self.queued -= size
        pieces: list[bytes | memoryview] = []
        while size:
            first = self._outgoing.popleft()
            if len(first) > size:
                view = memoryview(first)
                self._outgoing.appendleft(view[size:])
                first = view[:size]
            pieces.append(first)
            size -= len(first)
        return pieces

    def forget_outgoing(self) -> None:
        """Drops what was to be sent."""
        self._outgoing.clear()
        self.queued = 0

    # In.

    def open_sink(self, buffer: memoryview) -> None:
        """What comes from now on goes straight into ``buffer`` while there is room."""
        self._sink, self._sunk = buffer, 0

    def close_sink(self) -> int:
        """Bytes that came into the sink, which is gone now."""
        count, self._sink, self._sunk = self._sunk, None, 0
        return count

    @property
    def sunk(self) -> int:
        """Bytes in the sink."""
        return self._sunk

    def put(self, data: memoryview) -> int:
        """Keeps a copy of what came; returns how much of it the sink took."""
        size = len(data)
        taken = 0
        if self._sink is not None and not self.buffered:
            taken = min(size, len(self._sink) - self._sunk)
            self._sink[self._sunk : self._sunk + taken] = data[:taken]
            self._sunk += taken
            if taken == size:
                return taken
            data = data[taken:]
            size -= taken
        self.buffered += size
        last = self._chunks[-1] if self._chunks else None
        if size > _SMALL:
            self._chunks.append(bytes(data))
        elif isinstance(last, bytearray) and len(last) + size <= _PACK:
            last += data  # many small frames must not cost many objects
        else:
            self._chunks.append(bytearray(data))
        return taken

    def take_in(self, max_bytes: int) -> bytes:
        """What is buffered, at most ``max_bytes``."""
        if not self._chunks:
            return b""
        first = self._chunks.popleft()
        if len(first) > max_bytes:
            view = memoryview(first)
            self._chunks.appendleft(view[max_bytes:])
            first = view[:max_bytes]
        self.buffered -= len(first)
        return bytes(first)

    def take_into(self, buffer: memoryview) -> int:
        """Moves what is buffered into ``buffer``; returns how much."""
        at = 0
        while self._chunks and at < len(buffer):
            first = self._chunks.popleft()
            room = len(buffer) - at
            if len(first) > room:
                view = memoryview(first)
                self._chunks.appendleft(view[room:])
                first = view[:room]
            buffer[at : at + len(first)] = first
            at += len(first)
        self.buffered -= at
        return at

    def forget_incoming(self) -> int:
        """Drops what is buffered; returns how much it was."""
        count, self.buffered = self.buffered, 0
        self._chunks.clear()
        return count
