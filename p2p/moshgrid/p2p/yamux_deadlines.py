"""Streams that have only so long: one that the peer opened and does not use, one that is closed here."""

from __future__ import annotations

import math
from collections import deque

from moshgrid.p2p.yamux_stream import StreamState

__all__ = ["Lingerers", "Newcomers"]

_LINGER_SECONDS = 10.0
_LINGER_UNSENT_SECONDS = 60.0


class Newcomers:
    """Streams that a peer opened and has not used yet: they have ``seconds`` each to begin."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: dict[StreamState, float] = {}

    def add(self, stream: StreamState, now: float) -> None:
        """One was opened."""
        self._until[stream] = now + self._seconds

    def remove(self, stream: StreamState) -> bool:
        """It is used or over; True if it was one of them."""
        return self._until.pop(stream, None) is not None

    @property
    def deadline(self) -> float:
        """When ``overdue`` has one next; infinity for never."""
        return next(iter(self._until.values()), math.inf)

    def overdue(self, now: float) -> list[StreamState]:
        """Those whose time is over."""
        if now < self.deadline:
            return []
        return [stream for stream, until in self._until.items() if until <= now]


class Lingerers:
    """Streams that are closed here, whose peer has not ended them or has not taken all of ours."""

    def __init__(self) -> None:
        self._queue: deque[tuple[float, float, StreamState]] = deque()

    def add(self, stream: StreamState, now: float) -> None:
        """One was closed."""
        self._queue.append((now + _LINGER_SECONDS, now + _LINGER_UNSENT_SECONDS, stream))

    @property
    def deadline(self) -> float:
        """When ``overdue`` may have one next; infinity for never."""
        return self._queue[0][0] if self._queue else math.inf

    def overdue(self, now: float) -> list[StreamState]:
        """Those whose time is over; longer for one that has something to send still."""
        found = []
        while self._queue and self._queue[0][0] <= now:
            _, last, stream = self._queue.popleft()
            if stream.is_over:
                continue
            if stream.end_sent or now >= last:
                found.append(stream)
            else:
                self._queue.append((now + _LINGER_SECONDS, last, stream))
        return found
