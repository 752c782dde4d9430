"""Whose frame goes next: little first, within its share; what is much takes turns."""

from __future__ import annotations

from collections import deque

from moshgrid.p2p.yamux_frames import HEADER_SIZE, TURN_PAYLOAD
from moshgrid.p2p.yamux_stream import StreamState

__all__ = ["TurnQueue"]

_LITTLE = 16 * 1024
_COST = 1024  # what a frame costs both ends however short it is


class TurnQueue:
    """Streams with something to send.

    One that comes with little goes before those that have much: a request never waits behind more than
    what is on its way already. Those with much take turns, a frame each. While both are there, neither
    kind gets more than the other, so many small writes cannot starve a big one.
    """

    def __init__(self) -> None:
        self._little: deque[StreamState] = deque()
        self._much: deque[StreamState] = deque()
        self._ahead = 0
        """By how many bytes those with little are ahead of those with much."""
        self._little_goes = False

    @property
    def waiting(self) -> bool:
        """True when ``take`` may have one."""
        return bool(self._little or self._much)

    def add(self, stream: StreamState) -> None:
        """Puts a stream in, if it is not."""
        if not stream.in_turn:
            stream.in_turn = True
            (self._little if stream.queued <= _LITTLE else self._much).append(stream)

    def take(self) -> StreamState | None:
        """The next stream that can send now; give it back with ``sent``."""
        queues = (self._little, self._much)
        for queue in queues if self._ahead < TURN_PAYLOAD else reversed(queues):
            while queue:
                stream = queue.popleft()
                if stream.can_send:
                    self._little_goes = queue is self._little
                    return stream
                stream.in_turn = False
        return None

    def sent(self, stream: StreamState, size: int) -> None:
        """A stream has sent a frame of ``size``; if it has more, it goes behind those with much."""
        if self._little_goes and self._much:
            self._ahead += max(HEADER_SIZE + size, _COST)
        else:
            self._ahead = max(0, self._ahead - HEADER_SIZE - size)
        if stream.can_send:
            self._much.append(stream)
        else:
            stream.in_turn = False
