"""Incoming links: receives the frames of all peers, and tells which links ended. Awaits.

One link a peer. A link whose sender wants counts goes over a relay; when its stream breaks the sender has the
time of grace to go on with it on another, from the first frame that did not come.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import trio

from moshgrid.averaging.outgoing_link import COUNT_BYTES, why
from moshgrid.averaging.part_memory import PartMemory
from moshgrid.averaging.resumption import GRACE_SECONDS
from moshgrid.averaging.wire import MAX_FRAME, Frame, Greeting, decode_frame, decode_greeting
from moshgrid.p2p.errors import MoshgridError, RemoteProtocolError
from moshgrid.p2p.framing import FrameReader
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.network import Stream

__all__ = ["IncomingLinks"]

_GREETING_SECONDS = 10.0
_HEARD_EVERY = 0.05


@dataclass
class _Incoming:
    """A link of one peer's, and the stream that it comes by now; None while there is none."""

    greeting: Greeting
    stream: Stream | None
    received: int = 0


class IncomingLinks:
    """``take`` serves streams. Frames go to ``frame_arrived``, numbers of bytes to ``heard``."""

    def __init__(
        self,
        memory: PartMemory,
        frame_arrived: Callable[[PeerId, Frame], None],
        heard: Callable[[PeerId, int], None],
        down: Callable[[PeerId], None],
        lost: Callable[[PeerId, str], None],
    ) -> None:
        """``down``: a peer's stream broke, and may be followed by another; ``lost``: its link ended."""
        self._memory = memory
        self._frame_arrived = frame_arrived
        self._heard = heard
        self._down = down
        self._lost = lost
        self._links: dict[PeerId, _Incoming] = {}
        self._broken: dict[PeerId, tuple[_Incoming, float, str]] = {}
        self._broke = trio.Event()

    def outlives_streams(self, peer: PeerId) -> bool:
        """True when what ends the stream from ``peer`` does not end its link."""
        link = self._links.get(peer)
        return link is not None and link.greeting.acknowledged

    async def take(self, stream: Stream) -> None:
        """Receives what comes by ``stream`` until it ends, or another takes its place."""
        peer, reason, may_go_on = stream.peer, "it closed the link", False
        reader = FrameReader(_Listening(stream, self._heard), MAX_FRAME, self._memory.allocate)
        link: _Incoming | None = None
        try:
            with trio.fail_after(_GREETING_SECONDS):
                first = await reader.read()
            if first is None:
                return
            link = await self._begin(stream, decode_greeting(first, peer))
            while (data := await reader.read_buffer()) is not None:
                if link.stream is not stream:
                    break
                self._frame_arrived(peer, decode_frame(data, peer))
                del data  # while this waits for the next, the memory is whoever's still needs it
                link.received += 1
                if link.greeting.acknowledged:
                    await stream.send(link.received.to_bytes(COUNT_BYTES, "big"))
        except trio.TooSlowError:
            await stream.reset()
        except MoshgridError as error:
            reason, may_go_on = why(error), not isinstance(error, RemoteProtocolError)
            await stream.reset()
        finally:
            is_broken = may_go_on and link is not None and link.greeting.acknowledged
            is_over = link is not None and link.stream is stream and self._links.get(peer) is link
            if is_over and link is not None:
                link.stream = None
                if not is_broken:
                    del self._links[peer]
        if not is_over or link is None:
            return
        if is_broken:
            self._down(peer)
            self._broken[peer] = link, trio.current_time() + GRACE_SECONDS, reason
            self._broke.set()
        else:
            self._lost(peer, reason)

    async def _begin(self, stream: Stream, greeting: Greeting) -> _Incoming:
        link = self._links.get(stream.peer)
        older = link.stream if link is not None else None
        if link is not None and greeting.acknowledged and link.greeting == greeting:
            link.stream = stream
        else:
            if link is not None and older is None:
                self._lost(stream.peer, "its link broke, and it began another")
            link = self._links[stream.peer] = _Incoming(greeting, stream)
        if older is not None:
            await older.reset()  # one at a time: each may hold a frame's worth of memory
        if greeting.acknowledged:
            await stream.send(link.received.to_bytes(COUNT_BYTES, "big"))
        return link

    async def give_up_broken(self) -> None:
        """Until cancelled: reports links lost that are not taken up again in time."""
        while True:
            self._broke = trio.Event()
            for peer, (link, due, reason) in list(self._broken.items()):
                if link.stream is not None or self._links.get(peer) is not link:
                    del self._broken[peer]  # it goes on, or another took its place
                elif due <= trio.current_time():
                    del self._broken[peer], self._links[peer]
                    self._lost(peer, reason)
            first_due = min((due for _, due, _ in self._broken.values()), default=math.inf)
            with trio.move_on_at(first_due):
                await self._broke.wait()


class _Listening:
    """A stream that tells, now and then, that bytes come in."""

    def __init__(self, stream: Stream, heard: Callable[[PeerId, int], None]) -> None:
        self._stream = stream
        self._heard = heard
        self._told = 0.0
        self._untold = 0
        self.peer = stream.peer
        self.protocol = stream.protocol
        self.send = stream.send
        self.close_write = stream.close_write
        self.close = stream.close
        self.reset = stream.reset

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data = await self._stream.receive(max_bytes)
        self._tell(len(data))
        return data

    async def receive_into(self, buffer: bytearray | memoryview) -> int:
        count = await self._stream.receive_into(buffer)
        self._tell(count)
        return count

    def _tell(self, count: int) -> None:
        self._untold += count
        now = trio.current_time()
        if now >= self._told + _HEARD_EVERY:
            self._told = now
            self._heard(self.peer, self._untold)
            self._untold = 0
