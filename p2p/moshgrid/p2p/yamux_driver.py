"""Runs a yamux session over a secured connection: one task reads, one writes.

What a task has to send goes out in that task, as far as the system takes it at once: waking another one
costs more than sending. The writing task sends what is left when the peer is slow, and what is very much.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.seat import Seat
from moshgrid.p2p.secure_channel import SecureChannel
from moshgrid.p2p.timer_queue import Timer, timer_queue
from moshgrid.p2p.yamux_limits import YamuxLimits
from moshgrid.p2p.yamux_session import SessionOver, YamuxSession
from moshgrid.p2p.yamux_stream import StreamState

__all__ = ["Waiters", "YamuxDriver"]

_GOODBYE_SECONDS = 1.0
_CLOSE_SECONDS = 1.0
_RUNS_AT_ONCE = 2
_GATHER_SECONDS = 0.0001
"""What comes so soon after a run goes out with whatever else comes until the writing task has its turn."""


class Waiters:
    """The tasks that wait for one stream."""

    __slots__ = ("reader", "writer")

    def __init__(self) -> None:
        self.reader = Seat()
        self.writer = Seat()


class YamuxDriver:
    """One connection. ``failures`` are the exceptions by which ``channel`` says that it is broken."""

    def __init__(
        self,
        peer: PeerId,
        channel: SecureChannel,
        close_channel: Callable[[], Awaitable[None]],
        *,
        initiator: bool,
        failures: tuple[type[Exception], ...],
        on_over: Callable[[], None],
        limits: YamuxLimits | None = None,
    ) -> None:
        self.peer = peer
        self.session = YamuxSession(initiator, trio.current_time(), limits)
        self.over = trio.Event()
        """No stream lives any more, and none will."""
        self.finished = trio.Event()
        """The channel is closed too."""
        self._channel = channel
        self._close_channel = close_channel
        self._failures = failures
        self._on_over = on_over
        self._running = False
        self._busy = False
        """The channel has not finished the last run."""
        self._sent_at = -1.0
        self._work = trio.Event()
        self._alarm = Timer(timer_queue(), self._tick)
        self._all_written = trio.Event()
        self._acceptors = trio.lowlevel.ParkingLot()

    async def run(self) -> None:
        """Returns when the connection is over and closed."""
        self._running = True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                nursery.start_soon(self._read)
                self._alarm.set(self.session.deadline)
                try:
                    await self.over.wait()
                    with trio.move_on_after(_GOODBYE_SECONDS):
                        await self._all_written.wait()
                finally:
                    # First of all the channel: a write that waits for a frozen peer cannot be cancelled.
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_SECONDS):
                        await self._close_channel()
                nursery.cancel_scope.cancel()
        finally:
            self._running = False
            self._alarm.stop()
            self.session.end("the connection was closed")
            self.spread()
            self.finished.set()

    async def _read(self) -> None:
        session = self.session
        try:
            while session.over is None:
                data = await self._channel.receive_some()
                if not data:
                    session.end("the connection was lost")
                    break
                at = session.receive(data, trio.current_time())
                self.spread()
                while session.over is None:
                    if (rest := session.guard.rests_until - trio.current_time()) <= 0 and at == len(data):
                        break
                    await trio.sleep(max(0.0, rest))
                    at += session.receive(memoryview(data)[at:], trio.current_time())
                    self.spread()
        except self._failures as error:
            session.end(f"the connection was lost: {error}")
        self.spread()

    async def _write(self) -> None:
        while self._running:
            if self._busy:
                began = trio.current_time()
                try:
                    await self._channel.finish_sending()
                except self._failures as error:
                    self._fail(error)
                    break
                self._busy = False
                self.session.written(trio.current_time() - began)
            self._send()
            self.spread()
            if self._busy:
                continue
            if self.session.out.has_more:
                await trio.lowlevel.checkpoint()
            elif self.session.over is not None:
                break
            else:
                self._work = trio.Event()
                await self._work.wait()
        self.spread()
        self._all_written.set()

    def _send(self) -> None:
        """Sends some runs of frames, while the system takes them; what remains is for ``_write``."""
        for _ in range(_RUNS_AT_ONCE):
            if self._busy or not self._running or not (frames := self.session.take()):
                break
            self._sent_at = trio.current_time()
            try:
                self._busy = not self._channel.send_now(frames)
            except self._failures as error:
                self._fail(error)
                return
            if not self._busy:
                self.session.written(0.0)
        if self._busy or (self._running and self.session.out.has_more):
            self._work.set()

    def _fail(self, error: Exception) -> None:
        self._running = False
        self.session.end(f"the connection takes no more: {error}")
        self._work.set()

    def _tick(self) -> None:
        self.session.tick(trio.current_time())
        self.spread()
        if self.session.over is None:
            self._alarm.set(self.session.deadline)

    def spread(self) -> None:
        """Sends what the session has to say, and wakes whoever its last change concerns."""
        session = self.session
        if not self._busy and session.out.has_more:
            if self.waits:
                self._work.set()
            else:
                self._send()
        if session.readable:
            for stream in session.readable:
                _waiters_of(stream).reader.wake()
            session.readable.clear()
        if session.writable:
            for stream in session.writable:
                _waiters_of(stream).writer.wake()
            session.writable.clear()
        if session.opened:
            self._acceptors.unpark_all()
        if session.over is None:
            if (deadline := session.deadline) < self._alarm.when and self._running:
                self._alarm.set(deadline)
        elif not self.over.is_set():
            self.over.set()
            self._acceptors.unpark_all()
            self._work.set()
            self._on_over()

    @property
    def waits(self) -> bool:
        """True when what is queued now is not sent at once."""
        return self._busy or trio.current_time() < self._sent_at + _GATHER_SECONDS

    def open(self) -> StreamState:
        """A new stream. Raises TooManyStreams or SessionOver."""
        stream = self.session.open(trio.current_time())
        stream.owner = Waiters()
        self.spread()
        return stream

    async def accept(self) -> StreamState:
        """The next stream that the peer opened. Raises SessionOver."""
        while True:
            while self.session.opened and self.session.over is None:
                stream = self.session.opened.popleft()
                if stream.lost is None:
                    _waiters_of(stream)
                    await trio.lowlevel.checkpoint()
                    return stream
            if self.session.over is not None:
                raise SessionOver(self.session.over)
            await self._acceptors.park()

    def doubt(self) -> None:
        """Ends the connection soon unless the peer is heard: the way to it may be gone."""
        self.session.pulse.doubt(trio.current_time())
        self.session.tick(trio.current_time())
        self.spread()

    def leave(self, reason: str) -> None:
        """Says goodbye, after what may still be sent; ``run`` returns soon."""
        self.session.leave(reason)
        self.spread()


def _waiters_of(stream: StreamState) -> Waiters:
    if stream.owner is None:
        stream.owner = Waiters()
    assert isinstance(stream.owner, Waiters)
    return stream.owner
