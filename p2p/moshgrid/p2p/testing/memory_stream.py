"""One in-memory stream: two pipes with delays, a bounded window and an end that can be clean or abrupt."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from moshgrid.p2p.circuit_info import CircuitInfo
from moshgrid.p2p.errors import Closed, LocalProtocolError, StreamReset
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.network import Buffer
from moshgrid.p2p.relay_messages import CircuitLimit

if TYPE_CHECKING:
    from moshgrid.p2p.testing.memory_network import MemoryNetwork

__all__ = ["Circuit", "MemoryStream", "Pipe"]

WINDOW = 256 * 1024
_SEGMENT = 64 * 1024


class Circuit:
    """A relayed connection between two peers, which breaks once it carried more than ``room`` bytes."""

    def __init__(self, one: MemoryNetwork, other: MemoryNetwork, room: int) -> None:
        self.replaced = False
        """True once a direct connection took its place; its streams go on to their end."""
        self.info = CircuitInfo(PeerId("relay"), CircuitLimit(120, room))
        """What its ends know of it: good for signalling."""
        self._ends = one.peer_id, other.peer_id
        self._switch = one.switch
        self._room = room

    def carry(self, size: int) -> None:
        """Takes ``size`` bytes."""
        if self._room < 0:
            return
        self._switch.relayed_bytes += size
        self._room -= size
        if self._room < 0 and not self.replaced:
            self._switch.disconnect(*self._ends)


class Pipe:
    """One direction of a stream: what ``source`` sent and ``target`` has not read yet."""

    def __init__(self, source: MemoryNetwork, target: MemoryNetwork, circuit: Circuit | None = None) -> None:
        self.source = source
        self.target = target
        self._circuit = circuit
        self.ended = False
        self.reset_at: float | None = None
        self._segments: deque[tuple[float, bytes]] = deque()  # b"" is the clean end
        self._in_flight = 0
        self._last_arrival = 0.0
        self._unread = False
        self._changed = trio.Event()

    @property
    def room(self) -> int:
        """Bytes that the receiver's window still takes."""
        return WINDOW - self._in_flight

    @property
    def broken(self) -> bool:
        """True when an abrupt end has reached the target."""
        return self.reset_at is not None and self.reset_at <= trio.current_time() and self._linked

    @property
    def _linked(self) -> bool:
        return self.source.switch.linked(self.source.peer_id, self.target.peer_id)

    def put(self, data: bytes) -> None:
        """Sends one segment on its way; ``b""`` is the clean end."""
        if self._unread:
            return
        if self._circuit is not None:
            self._circuit.carry(len(data))
        arrival = self.source.switch.arrival(self.source, self.target, len(data))
        # A stream is ordered: what was sent later never arrives earlier.
        self._last_arrival = max(arrival, self._last_arrival)
        self._segments.append((self._last_arrival, data))
        self._in_flight += len(data)
        self.ended = self.ended or not data
        self.wake()

    def take(self, max_bytes: int) -> bytes | None:
        """What has arrived, at most ``max_bytes``; None when nothing has."""
        if not self._segments or not self._linked:
            return None
        arrival, data = self._segments[0]
        if arrival > trio.current_time():
            return None
        if not data:
            return b""  # stays in place: a clean end is seen as often as one asks
        if len(data) > max_bytes:
            self._segments[0] = (arrival, data[max_bytes:])
            data = data[:max_bytes]
        else:
            self._segments.popleft()
        self._in_flight -= len(data)
        self.wake()
        return data

    def break_off(self, at: float) -> None:
        """Makes the receiver see an abrupt end at time ``at``; what it has not read is lost."""
        if self.reset_at is None or at < self.reset_at:
            self.reset_at = at
            self.wake()

    def stop_reading(self) -> None:
        """The receiver wants no more: what is and will be sent is dropped, and the sender never waits."""
        self._unread = True
        self._segments.clear()
        self._in_flight = 0
        self.wake()

    async def changed(self, until: float | None = None) -> None:
        """Returns when there may be news: an arrival, an end, room, a healed link, or at ``until``."""
        now = trio.current_time()
        arrival = self._segments[0][0] if self._segments else None
        # What is overdue waits for a cut link; healing that wakes us.
        times = [at for at in (arrival, self.reset_at, until) if at is not None and at > now]
        with trio.move_on_at(min(times, default=math.inf)):
            await self._changed.wait()

    def wake(self) -> None:
        """Lets both ends look again."""
        self._changed.set()
        self._changed = trio.Event()


class MemoryStream:
    """A ``Stream`` over two pipes."""

    def __init__(self, network: MemoryNetwork, peer: PeerId, protocol: str, out: Pipe, into: Pipe) -> None:
        self._network = network
        self._peer = peer
        self._protocol = protocol
        self._out = out
        self._into = into
        self._lost: str | None = None

    @property
    def other(self) -> MemoryNetwork:
        """The network at the other end."""
        return self._out.target

    @property
    def peer(self) -> PeerId:
        """The peer at the other end."""
        return self._peer

    @property
    def protocol(self) -> str:
        """The protocol id."""
        return self._protocol

    async def send(self, data: Buffer | Sequence[Buffer]) -> None:
        """Sends all of ``data``; waits while the window is full."""
        await trio.lowlevel.checkpoint()
        if not isinstance(data, (bytes, bytearray, memoryview)):
            data = b"".join(data)
        with memoryview(data).cast("B") as view:
            at = 0
            while at < len(view):
                await self._network.awake()
                self._check_alive()
                if self._out.ended:
                    raise LocalProtocolError("send after close_write")
                size = min(len(view) - at, self._out.room, _SEGMENT)
                if size > 0:
                    self._out.put(bytes(view[at : at + size]))
                    at += size
                else:
                    await self._out.changed(until=self._into.reset_at)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """What has arrived, or ``b""`` after the clean end."""
        await trio.lowlevel.checkpoint()
        while True:
            await self._network.awake()
            self._check_alive()
            data = self._into.take(max_bytes)
            if data is not None:
                return data
            await self._into.changed()

    async def receive_into(self, buffer: bytearray | memoryview) -> int:
        """Puts what has arrived into ``buffer``; 0 after the clean end."""
        with memoryview(buffer).cast("B") as view:
            if not len(view):
                raise LocalProtocolError("receive_into with an empty buffer")
            data = await self.receive(len(view))
            view[: len(data)] = data
        return len(data)

    def _check_alive(self) -> None:
        if self._network.closed:
            raise Closed("this peer is closed")
        if self._lost is None and self._into.broken:
            self._lost = "the peer reset the stream or is gone"
        if self._lost is not None:
            raise StreamReset(self._peer, [(self._protocol, self._lost)])

    async def close_write(self) -> None:
        """The clean end of this side."""
        await trio.lowlevel.checkpoint()
        await self._network.awake()
        self._check_alive()
        if not self._out.ended:
            self._out.put(b"")

    async def close(self) -> None:
        """Ends both directions; what was sent still arrives."""
        await trio.lowlevel.checkpoint()
        if self._lost is None and not self._network.closed and not self._out.ended:
            self._out.put(b"")
        self._lost = self._lost or "closed here"
        self._into.stop_reading()
        self._forget()

    async def reset(self) -> None:
        """Aborts both directions."""
        self.abort("reset here")
        await trio.lowlevel.checkpoint()

    def abort(self, reason: str) -> None:
        """Breaks both directions now; the other end sees it after the latency."""
        if self._lost is None:
            self._lost = reason
            self._out.break_off(trio.current_time() + self._network.switch.delay())
        self._forget()

    def wake(self) -> None:
        """Lets tasks that wait on this stream look again."""
        self._into.wake()
        self._out.wake()

    def _forget(self) -> None:
        self._network.streams.pop(self, None)
        self.wake()
