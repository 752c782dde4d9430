"""Which streams a connection has, who opened them, and what they may take together."""

from __future__ import annotations

from moshgrid.p2p.yamux_frames import INITIAL_WINDOW
from moshgrid.p2p.yamux_limits import YamuxLimits
from moshgrid.p2p.yamux_stream import StreamState

__all__ = ["SessionOver", "StreamTable", "TooManyStreams"]


class SessionOver(Exception):
    """The connection ended, or takes no new streams."""


class TooManyStreams(Exception):
    """As many streams are open as the limits allow."""


class StreamTable:
    """The live streams of one end; the one that connected gives odd ids, the other even ones."""

    def __init__(self, initiator: bool, limits: YamuxLimits) -> None:
        self.live: dict[int, StreamState] = {}
        self.buffered = 0
        """Unread bytes of the live streams; what others hold is bounded by their windows and their users."""
        self._limits = limits
        self._next_id = 1 if initiator else 2
        self._parity = self._next_id % 2
        self._highest = 0
        self._held = [0, 0]  # outbound, inbound
        self._grown = 0

    def __contains__(self, stream: StreamState) -> bool:
        return self.live.get(stream.id) is stream

    @property
    def ever(self) -> int:
        """A number that grows with every stream that either side opens."""
        return self._next_id + self._highest

    @property
    def has_room(self) -> bool:
        """True when we may open one more."""
        return self._held[0] < self._limits.outbound_streams and self._next_id < 2**32

    @property
    def has_room_inbound(self) -> bool:
        """True when the peer may open one more."""
        return self._held[1] < self._limits.inbound_streams

    def open(self, now: float) -> StreamState:
        """A stream of ours. Raises TooManyStreams."""
        if not self.has_room:
            raise TooManyStreams(f"{self._limits.outbound_streams} streams to this peer are open already")
        self._next_id += 2
        return self._add(self._next_id - 2, False, now)

    def accept(self, stream_id: int, now: float) -> StreamState:
        """A stream of the peer's."""
        return self._add(stream_id, True, now)

    def _add(self, stream_id: int, inbound: bool, now: float) -> StreamState:
        stream = self.live[stream_id] = StreamState(stream_id, inbound, now)
        self._held[inbound] += 1
        return stream

    def is_to_open(self, stream_id: int) -> bool:
        """True when the peer may open a stream of this id. It counts as known from now on."""
        if stream_id in self.live or stream_id % 2 == self._parity:
            return False
        self._highest = max(self._highest, stream_id)
        return True

    def ever_was(self, stream_id: int) -> bool:
        """True when there may have been such a stream."""
        ours = stream_id % 2 == self._parity
        return stream_id < self._next_id if ours else stream_id <= self._highest

    def give_back(self, stream: StreamState, count: int, now: float, rtt: float | None) -> int:
        """The credit that the peer gets for ``count`` bytes that were read; 0 for none yet."""
        before = stream.window.size
        room = self._limits.growth - self._grown
        grant = stream.window.give_back(count, now, rtt, room, not stream.buffered)
        self._grown += stream.window.size - before
        return grant

    def was_read(self, stream: StreamState, count: int) -> None:
        """Bytes of a stream were read or dropped."""
        if stream in self:
            self.buffered -= count

    def forget(self, stream: StreamState) -> None:
        """A stream is over."""
        if stream in self:
            self.buffered -= stream.buffered
            del self.live[stream.id]
            self._held[stream.inbound] -= 1
            self._grown -= stream.window.size - INITIAL_WINDOW
