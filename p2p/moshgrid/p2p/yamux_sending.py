"""Which frames go out next, and how many at once."""

from __future__ import annotations

from collections import deque

from moshgrid.p2p.yamux_frames import DATA, FIN, HEADER_SIZE, MAX_PAYLOAD, TURN_PAYLOAD, pack_header
from moshgrid.p2p.yamux_schedule import TurnQueue
from moshgrid.p2p.yamux_stream import StreamState

__all__ = ["FrameWriter"]

_MAX_RUN = 2 * (HEADER_SIZE + MAX_PAYLOAD)
_MIN_RUN = HEADER_SIZE + TURN_PAYLOAD
_RUN_SECONDS = 0.001
_RATE_SECONDS = 0.01
"""Of waiting, before the rate is judged: a shorter time tells more of this machine's scheduling."""
_JOIN = 1024


class FrameWriter:
    """Cuts what streams have queued into frames, in runs of a length that the path takes quickly.

    Frames without payload come first, then streams take turns, a frame each, longer ones when a stream has
    the connection to itself. A run is what the path takes in a millisecond, so that what is urgent never
    waits long for what is big.
    """

    def __init__(self) -> None:
        self._turns = TurnQueue()
        self._control: deque[bytes] = deque()
        self._last_words: bytes | None = None
        self._run = _MAX_RUN
        self._taken = 0
        self._moved, self._seconds = 0, 0.0
        self._in_flight: list[StreamState] = []

    @property
    def has_more(self) -> bool:
        """True when ``take`` may have something."""
        return bool(self._control) or self._turns.waiting or self._last_words is not None

    def control(self, kind: int, flags: int, stream_id: int, length: int) -> int:
        """Queues a frame without payload; returns how many wait."""
        self._control.append(pack_header(kind, flags, stream_id, length))
        return len(self._control)

    def hurry(self, stream: StreamState) -> None:
        """Sends the little that a stream has queued before anything else: its end comes next."""
        size = stream.queued
        if stream.can_send and 0 < size <= min(stream.send_window, MAX_PAYLOAD):
            self._control.append(b"".join((pack_header(DATA, 0, stream.id, size), *stream.take_out(size))))

    def wake(self, stream: StreamState) -> None:
        """A stream may have something to send."""
        if stream.can_send:
            self._turns.add(stream)

    def silence(self) -> None:
        """Nothing more is to be sent."""
        self._turns = TurnQueue()
        self._control.clear()

    def finish(self, last_words: bytes) -> None:
        """Sends ``last_words`` when there is nothing else to send."""
        self._last_words = last_words

    def take(self) -> tuple[list[bytes | memoryview], list[StreamState]]:
        """The next run of frames, and the streams whose end is among them."""
        frames: list[bytes | memoryview] = []
        ended: list[StreamState] = []
        if self._control:
            frames.append(b"".join(self._control))
            self._control.clear()
        room = self._run
        while room > 0 and (stream := self._turns.take()) is not None:
            share = self._run // 2 if self._turns.waiting else room
            most = min(MAX_PAYLOAD, max(TURN_PAYLOAD, share - HEADER_SIZE))
            size = min(stream.queued, stream.send_window, most)
            stream.send_window -= size
            pieces = stream.take_out(size)
            header = pack_header(DATA, 0, stream.id, size)
            if 0 < size <= _JOIN:
                frames.append(b"".join((header, *pieces)))
            elif size:
                frames.append(header)
                frames += pieces
            if stream.end_queued and not stream.queued:
                # In a frame of its own: js-libp2p drops what comes in one frame with the end.
                frames.append(pack_header(DATA, FIN, stream.id, 0))
                stream.end_sent = True
                ended.append(stream)
            if not stream.in_flight:
                stream.in_flight = True
                self._in_flight.append(stream)
            self._turns.sent(stream, size)
            room -= HEADER_SIZE + size
        self._taken = self._run - room
        if not frames and self._last_words is not None:
            frames.append(self._last_words)
            self._last_words = None
        return frames, ended

    def written(self, seconds: float) -> list[StreamState]:
        """The run that was taken is written, after the path let us wait so long; the streams whose memory
        is free now."""
        self._moved += self._taken
        self._seconds += seconds
        if self._seconds >= _RATE_SECONDS:
            run = int(self._moved / self._seconds * _RUN_SECONDS)
            self._run = max(_MIN_RUN, min(run, _MAX_RUN))
            self._moved, self._seconds = 0, 0.0
        freed, self._in_flight = self._in_flight, []
        for stream in freed:
            stream.in_flight = False
        return freed
