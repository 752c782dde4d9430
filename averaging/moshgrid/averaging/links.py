"""Links: one stream to each peer that this host averages with, carrying the frames of all runs.

Awaits, and decides nothing: what is sent is queued in order, what arrives is handed to the run named in
the frame, and a link that ends is reported to every run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import trio

from moshgrid.averaging.part_memory import PartMemory, Payload
from moshgrid.averaging.throughput import Throughput
from moshgrid.averaging.wire import MAX_FRAME, Frame, decode_frame
from moshgrid.p2p.circuit_info import CircuitInfo
from moshgrid.p2p.errors import MoshgridError, RemoteProtocolError, Unreachable
from moshgrid.p2p.framing import FrameReader, send_frame
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.network import Stream

__all__ = ["LinkUser", "Links"]

PROTOCOL = "/moshgrid/average/1"
_LAYER = "averaging"
_OPEN_SECONDS = 10.0
_SEND_SECONDS = 60.0
_MAX_QUEUED = 65536
_HEARD_EVERY = 0.05

_Queued = tuple[bytes, Payload, Callable[[], None] | None]

_log = logging.getLogger("moshgrid.averaging")


class LinkUser(Protocol):
    """A run that uses the links. All methods are called in the loop and must not block."""

    def frame_arrived(self, peer: PeerId, frame: Frame) -> None:
        """A whole frame of this run came from ``peer``."""
        ...

    def bytes_arrived(self, peer: PeerId, count: int) -> None:
        """``count`` bytes came from ``peer``, of whatever run."""
        ...

    def link_lost(self, peer: PeerId, reason: str) -> None:
        """The link to or from ``peer`` ended."""
        ...


class Links:
    """All links of a host; get it with ``Links.of``."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._users: dict[bytes, LinkUser] = {}
        self._outboxes: dict[PeerId, trio.MemorySendChannel[_Queued]] = {}
        self._inbound: dict[PeerId, Stream] = {}
        self._relayed: set[Stream] = set()
        self.memory = PartMemory()
        """What frames are received into; parts to be sent may be encoded into it."""
        self._throughput = Throughput()
        host.network.serve(PROTOCOL, self._receive)
        host.network.on_lost(lambda peer: self._lost(peer, "the connection was lost"))

    @classmethod
    def of(cls, host: Host) -> Links:
        """The links of ``host``, made on the first call."""
        links = host.layers.get(_LAYER)
        if links is None:
            links = host.layers[_LAYER] = cls(host)
        assert isinstance(links, Links)
        return links

    @property
    def bandwidth(self) -> float:
        """Bytes per second that this host was measured to move each way; 0 when not known yet."""
        return self._throughput.bandwidth

    def attach(self, run: bytes, user: LinkUser) -> None:
        """Hands frames of ``run`` (16 bytes) to ``user``. Raises ValueError when it has one already."""
        if run in self._users:
            raise ValueError("this node takes part in that run already")
        self._users[run] = user

    def detach(self, run: bytes) -> None:
        """Stops handing frames of ``run`` to anybody."""
        self._users.pop(run, None)
        self.memory.keep(run, 0)

    def send(
        self,
        peer: PeerId,
        header: bytes,
        payload: Payload = b"",
        sent: Callable[[], None] | None = None,
    ) -> None:
        """Queues a frame; a link that cannot take it is reported lost. ``sent`` is called in the loop when
        the stream has taken all of it; never, when the link is lost before.
        """
        outbox = self._outboxes.get(peer)
        if outbox is None:
            outbox, queue = trio.open_memory_channel[_Queued](_MAX_QUEUED)
            self._outboxes[peer] = outbox
            self._host.nursery.start_soon(self._send_queued, peer, outbox, queue)
        try:
            outbox.send_nowait((header, payload, sent))
        except trio.WouldBlock:
            self._close_outbox(peer, outbox)
            self._lost(peer, f"more than {_MAX_QUEUED} messages wait to be sent")

    async def _send_queued(
        self,
        peer: PeerId,
        outbox: trio.MemorySendChannel[_Queued],
        queue: trio.MemoryReceiveChannel[_Queued],
    ) -> None:
        reason = "the link was closed"
        stream: Stream | None = None
        try:
            with trio.fail_after(_OPEN_SECONDS):
                stream = await self._host.network.open_stream(peer, PROTOCOL)
            circuit = self._host.network.circuit_of(peer)
            async for header, payload, sent in queue:
                began = trio.current_time()
                with trio.fail_after(_SEND_SECONDS):
                    if payload and circuit is not None:
                        stream, circuit = await self._for_tensors(stream, circuit)
                    await send_frame(stream, header, payload)
                self._throughput.sent(len(header) + len(payload), began, trio.current_time())
                if sent is not None:
                    sent()
                del payload, sent  # while this waits for the next, nothing of the last is held
        except trio.TooSlowError:
            reason = "took no bytes for too long" if stream else f"no connection within {_OPEN_SECONDS:.0f} s"
        except MoshgridError as error:
            reason = _reason(error)
        finally:
            self._close_outbox(peer, outbox)
            if stream is not None:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                    await stream.reset()
        self._lost(peer, reason)

    async def _for_tensors(self, relayed: Stream, circuit: CircuitInfo) -> tuple[Stream, CircuitInfo | None]:
        """The stream, or a new one over the direct connection or fresh circuit that took the place of
        ``circuit``; the old one then ends in good order. Raises Unreachable where a relay takes little only.
        """
        network, peer = self._host.network, relayed.peer
        better = network.circuit_of(peer)
        if better is None and not network.is_direct(peer):
            raise Unreachable(peer, [(PROTOCOL, "the connection was lost")])
        if better is not None and not better.carries_tensors:
            raise Unreachable(peer, [(PROTOCOL, "no direct connection for what is too large for a relay")])
        if better is circuit:
            return relayed, circuit
        stream = await network.open_stream(peer, PROTOCOL)
        await relayed.close_write()
        return stream, better

    def _close_outbox(self, peer: PeerId, outbox: trio.MemorySendChannel[_Queued]) -> None:
        outbox.close()
        if self._outboxes.get(peer) is outbox:
            del self._outboxes[peer]

    async def _receive(self, stream: Stream) -> None:
        older = self._inbound.get(stream.peer)
        self._inbound[stream.peer] = stream
        if older is not None and older not in self._relayed:
            await older.reset()  # one at a time: each may hold a frame's worth of memory
        if not self._host.network.is_direct(stream.peer):
            self._relayed.add(stream)  # a direct one that takes its place lets it end in good order
        reader = FrameReader(_Listening(stream, self._heard), MAX_FRAME, self.memory.allocate)
        reason = "it closed the link"
        try:
            while (data := await reader.read_buffer()) is not None:
                frame = decode_frame(data, stream.peer)
                user = self._users.get(frame.run)
                if user is not None:
                    user.frame_arrived(stream.peer, frame)
                del data, frame  # while this waits for the next, the memory is whoever's still needs it
        except MoshgridError as error:
            reason = _reason(error)
            await stream.reset()
        finally:
            self._relayed.discard(stream)
            replaced = self._inbound.get(stream.peer) is not stream
            if not replaced:
                del self._inbound[stream.peer]
        if not replaced:
            self._lost(stream.peer, reason)

    def _heard(self, peer: PeerId, count: int) -> None:
        self._throughput.received(count, trio.current_time())
        for user in self._users.values():
            user.bytes_arrived(peer, count)

    def _lost(self, peer: PeerId, reason: str) -> None:
        outbox = self._outboxes.get(peer)
        if outbox is not None:
            self._close_outbox(peer, outbox)
        for user in list(self._users.values()):
            user.link_lost(peer, reason)


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


def _reason(error: MoshgridError) -> str:
    """What went wrong, without the peer's name: the report and the event have it already."""
    if isinstance(error, RemoteProtocolError):
        return error.reason
    if isinstance(error, Unreachable) and error.attempts:
        return error.attempts[-1][1]
    return str(error)
