"""A yamux connection without its socket: bytes in, streams changed, frames out. No await, no clock.

Rules (the yamux specification, as libp2p uses it, and what it leaves open):

* A peer that sends beyond a stream's window, breaks the frame format, or speaks for streams that never
  were, is told so (go-away, protocol error) and the session is over before the offending bytes are kept.
* A stream ends well when both sides sent their end. A reset, and the end of the connection, are errors
  for whoever has not received the peer's end of the stream.
* A stream that the peer opened is nobody's before its first bytes: opened and reset again, it costs little.
* What a peer can make us do is bounded by ``YamuxLimits``.
"""

from __future__ import annotations

from collections import deque

from moshgrid.p2p import yamux_frames as wire
from moshgrid.p2p.yamux_deadlines import Lingerers, Newcomers
from moshgrid.p2p.yamux_guard import OVER_WINDOW, Guard
from moshgrid.p2p.yamux_limits import YamuxLimits
from moshgrid.p2p.yamux_pulse import Pulse
from moshgrid.p2p.yamux_sending import FrameWriter
from moshgrid.p2p.yamux_splitting import FrameSplitter
from moshgrid.p2p.yamux_stream import StreamState
from moshgrid.p2p.yamux_table import SessionOver, StreamTable, TooManyStreams

__all__ = ["SessionOver", "TooManyStreams", "YamuxSession"]

_OPENING_COSTS, _USING_COSTS = 1, 16


class YamuxSession(FrameSplitter):
    """One end of a connection."""

    def __init__(self, initiator: bool, now: float, limits: YamuxLimits | None = None) -> None:
        self.limits = limits or YamuxLimits()
        super().__init__(self.limits.frames_per_turn)
        self.streams = StreamTable(initiator, self.limits)
        self.fault: str | None = None
        """What the peer did wrong, when that ended it."""
        self.opened: deque[StreamState] = deque()
        """Streams that the peer opened and used, and nobody has taken yet."""
        self._newcomers = Newcomers(self.limits.first_bytes_seconds)
        self.readable: dict[StreamState, None] = {}
        """Streams whose reader should look again. The driver empties it."""
        self.writable: dict[StreamState, None] = {}
        self.pulse = Pulse(now)
        self.out = FrameWriter()
        self._leaving = False
        self._lingering = Lingerers()
        self.guard = Guard(self.limits, now)
        self._target: StreamState | None = None
        self._ends = False
        self.tick(now)

    # Bytes in.

    def receive(self, data: bytes | memoryview, now: float) -> int:
        """Takes in what came; returns how much of it: give the rest again after others had a turn."""
        self.pulse.heard(now)
        return self.split(data, now)

    def on_frame(self, now: float, version: int, kind: int, flags: int, stream_id: int, length: int) -> int:
        """A header came."""
        if (fault := wire.find_fault(version, kind, flags, stream_id)) is not None:
            self.fail(fault)
        elif kind == wire.PING:
            if flags & wire.ACK:
                self.pulse.pong(length, now)
            elif self.guard.admits_ping(now):
                self._control(wire.PING, wire.ACK, 0, length)
            else:
                self._fail_if(self.guard.annoyed(now), now)
        elif kind == wire.GO_AWAY:
            self._leaving = True
            if length != wire.NORMAL:
                self.end(f"the peer ended the connection (code {length})")
        else:
            return self._stream_frame(kind, flags, stream_id, length, now)
        return 0

    def _stream_frame(self, kind: int, flags: int, stream_id: int, length: int, now: float) -> int:
        stream = self.streams.live.get(stream_id)
        if flags & wire.SYN:
            if not self.streams.is_to_open(stream_id):
                return self.fail("opened a stream that was not its to open")
            stream = self._admit(stream_id, now)
        elif stream is None and not self.streams.ever_was(stream_id):
            return self.fail("sent a frame for a stream that never was")
        payload = length if kind == wire.DATA else 0
        if stream is None:
            if kind == wire.DATA and self._fail_if(self.guard.late_data(stream_id, length, now), now):
                return 0
            self._target = None
            return payload
        if payload > stream.window.credit:
            return self.fail(OVER_WINDOW)
        if payload and stream.ended_there:
            return self.fail("sent more after the end of a stream")
        stream.window.arrives(payload, now)
        if kind == wire.WINDOW_UPDATE:
            stream.send_window += length
            if stream.send_window >= 2**32:
                return self.fail("granted more than a window can be")
            self.out.wake(stream)
        self._target, self._ends = stream, False
        if (payload or flags & wire.FIN) and self._newcomers.remove(stream):
            self.spend_turn(_USING_COSTS)
            self.opened.append(stream)
        if flags & wire.RST:
            self._target = None
            self._lose(stream, "the peer reset the stream", keep_end=False)
        elif flags & wire.FIN:
            self._ends = bool(payload)
            if not payload:
                self._end_there(stream)
        return payload

    def on_payload(self, data: memoryview, last: bool, now: float) -> None:
        """A part of a frame's payload came."""
        stream = self._target
        if stream is None or stream.lost is not None:
            return
        if stream.discarding:
            self._consumed(stream, len(data), now)
        else:
            taken = stream.put(data)
            self.streams.buffered += len(data) - taken
            self.readable[stream] = None
            self._consumed(stream, taken, now)
            if self.streams.buffered > self.limits.buffered:
                self.reset(stream, "too much waits to be read on this connection")
        if last and self._ends and stream.lost is None:
            self._end_there(stream)

    def _end_there(self, stream: StreamState) -> None:
        stream.ended_there = True
        self.readable[stream] = None
        if stream.end_sent:
            self.streams.forget(stream)

    def _admit(self, stream_id: int, now: float) -> StreamState | None:
        admitted = self.guard.admits_stream(stream_id, now)
        if not admitted or not self.streams.has_room_inbound:
            self._control(wire.WINDOW_UPDATE, wire.RST, stream_id, 0)
            self.guard.remember(stream_id, wire.INITIAL_WINDOW)
            self._fail_if(self.guard.annoyed(now), now)
            return None
        self.spend_turn(_OPENING_COSTS)
        stream = self.streams.accept(stream_id, now)
        self._control(wire.WINDOW_UPDATE, wire.ACK, stream_id, 0)
        self._newcomers.add(stream, now)
        return stream

    def _fail_if(self, fault: str | None, now: float) -> bool:
        if self.guard.rests_until > now:
            self.spend_turn(self.limits.frames_per_turn)
        if fault is not None:
            self.fail(fault)
        return fault is not None

    # Streams of ours.

    @property
    def is_ending(self) -> bool:
        """True when it is over, or the other side said goodbye."""
        return self.over is not None or self._leaving

    def open(self, now: float) -> StreamState:
        """A new stream. Raises TooManyStreams, or SessionOver."""
        if self.is_ending:
            raise SessionOver(self.over or "the peer takes no new streams")
        stream = self.streams.open(now)
        self.pulse.asked(now)
        self._control(wire.WINDOW_UPDATE, wire.SYN, stream.id, 0)
        return stream

    def send(self, stream: StreamState, chunks: list[bytes | memoryview]) -> None:
        """Queues data; what is no ``bytes`` must stay as it is until it is written."""
        for chunk in chunks:
            stream.queue(chunk)
        self.out.wake(stream)

    def end_sending(self, stream: StreamState) -> None:
        """The clean end of our side, after what is queued."""
        stream.end_queued = True
        self.out.wake(stream)

    def read(self, stream: StreamState, max_bytes: int, now: float) -> bytes:
        """What has come, at most ``max_bytes``."""
        data = stream.take_in(max_bytes)
        self.streams.was_read(stream, len(data))
        self._consumed(stream, len(data), now)
        return data

    def read_into(self, stream: StreamState, buffer: memoryview, now: float) -> int:
        """Moves what has come into ``buffer``."""
        count = stream.take_into(buffer)
        self.streams.was_read(stream, count)
        self._consumed(stream, count, now)
        return count

    def _consumed(self, stream: StreamState, count: int, now: float) -> None:
        if not count or stream.ended_there or stream.lost is not None:
            return
        if grant := self.streams.give_back(stream, count, now, self.pulse.rtt):
            self._control(wire.WINDOW_UPDATE, 0, stream.id, grant)

    def close(self, stream: StreamState, now: float) -> None:
        """Ends our side and drops what the peer still sends, for some seconds; then it is a reset."""
        self.streams.was_read(stream, dropped := stream.forget_incoming())
        if stream not in self.streams:
            return
        stream.discarding = True
        self._consumed(stream, dropped, now)
        self.end_sending(stream)
        self._lingering.add(stream, now)

    def reset(self, stream: StreamState, reason: str = "reset here") -> None:
        """Aborts both directions; only a little that was sent before may still go."""
        self.streams.was_read(stream, stream.forget_incoming())
        if stream in self.streams and self.over is None:
            self.out.hurry(stream)
            self._control(wire.WINDOW_UPDATE, wire.RST, stream.id, 0)
            self.guard.remember(stream.id, stream.window.credit)
        self._lose(stream, reason, keep_end=False)

    def _lose(self, stream: StreamState, reason: str, *, keep_end: bool) -> None:
        stream.lost, stream.ended_there = stream.lost or reason, stream.ended_there and keep_end
        stream.forget_outgoing()
        self._newcomers.remove(stream)
        self.readable[stream] = self.writable[stream] = None
        self.streams.forget(stream)

    # Frames out.

    def take(self) -> list[bytes | memoryview]:
        """The next run of frames to write; empty when there are none. Then say ``written``."""
        frames, ended = self.out.take()
        for stream in ended:
            if stream.ended_there:
                self.streams.forget(stream)
        return frames

    def written(self, seconds: float) -> None:
        """What was taken is on its way and its memory free again."""
        for stream in self.out.written(seconds):
            self.writable[stream] = None

    def _control(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        if self.out.control(kind, flags, stream_id, length) > self.limits.control_frames:
            self.out.silence()
            self.end("the peer asks and does not read the answers")

    # Time and the end.

    @property
    def deadline(self) -> float:
        """When ``tick`` is wanted next."""
        return min(self.pulse.deadline, self._newcomers.deadline, self._lingering.deadline)

    def tick(self, now: float) -> None:
        """Pings, and gives up what has waited for too long."""
        if self.over is not None:
            return
        for stream in self._newcomers.overdue(now):
            self.reset(stream, "nothing came on it")
        for stream in self._lingering.overdue(now):
            self.reset(stream, "closed here")
        if self.pulse.is_lost(now):
            self.out.silence()
            self.end("the peer has been silent for too long")
        elif (value := self.pulse.due_ping(now)) is not None:
            self._control(wire.PING, wire.SYN, 0, value)

    def leave(self, reason: str) -> None:
        """Ends the session in good order: what is queued and may go goes first."""
        if self.over is None:
            self.out.finish(wire.pack_header(wire.GO_AWAY, 0, 0, wire.NORMAL))
            self.end(reason, flush=True)

    def fail(self, fault: str) -> int:
        """Ends the session because the peer broke the rules, and tells it. Returns 0: no payload follows."""
        if self.over is None:
            self.fault = fault
            self.out.silence()
            self.out.finish(wire.pack_header(wire.GO_AWAY, 0, 0, wire.PROTOCOL_ERROR))
            self.end(f"the peer {fault}")
        return 0

    def end(self, reason: str, *, flush: bool = False) -> None:
        """The connection is gone; streams that have not ended are lost."""
        if self.over is not None:
            return
        self.over, self._target = reason, None
        for stream in list(self.streams.live.values()):
            if flush and stream.can_send:
                self.readable[stream] = self.writable[stream] = None
            else:
                self._lose(stream, reason, keep_end=True)
