"""An outgoing link: the stream that carries this host's frames to one peer. Awaits.

Over a direct connection it ends when its stream does. Over a relay it outlives its stream: when the relay is
gone it goes on over another, or over the direct connection that came about, with what the peer has not got.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import NamedTuple

import trio

from moshgrid.averaging.part_memory import Payload
from moshgrid.averaging.resumption import GRACE_SECONDS, Unacknowledged, may_be_reached_again
from moshgrid.averaging.wire import Greeting, encode_greeting
from moshgrid.p2p.circuit_info import CircuitInfo
from moshgrid.p2p.errors import MoshgridError, RemoteProtocolError, StreamReset, Unreachable
from moshgrid.p2p.framing import read_exactly, send_frame
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.network import Network, Stream

__all__ = ["COUNT_BYTES", "PROTOCOL", "OutgoingLink", "Queued", "why"]

PROTOCOL = "/moshgrid/average/1"
COUNT_BYTES = 8
_OPEN_SECONDS = 10.0
_SEND_SECONDS = 60.0
_AGAIN_SECONDS = 0.25
"""Between two attempts to find another way to a peer."""


class Queued(NamedTuple):
    """A frame that waits to be sent."""

    header: bytes
    payload: Payload
    sent: Callable[[], None] | None
    """To be called when the stream has taken all of it."""
    wanted: Callable[[], bool] | None
    """Asked when its turn comes; it is left out where nobody needs it any more."""


class OutgoingLink:
    """Sends what is put into ``queue`` to ``peer``, in order.

    ``down`` is called when a relay is gone and another way is looked for; ``sent`` after each frame, with its
    size and the times at which it was there to be sent and taken.
    """

    def __init__(
        self,
        network: Network,
        peer: PeerId,
        queue: trio.MemoryReceiveChannel[Queued],
        down: Callable[[], None],
        sent: Callable[[int, float, float], None],
    ) -> None:
        self._network = network
        self._peer = peer
        self._queue = queue
        self._down = down
        self._sent = sent
        self._id = secrets.token_bytes(16)
        self._stream: Stream | None = None
        self._circuit: CircuitInfo | None = None
        self._kept = Unacknowledged()
        self._acknowledged = trio.Event()
        self._sending = trio.Lock()
        self._reason = "the link was closed"
        self.outlives_streams = False
        """True when what ends the stream does not end the link."""

    async def run(self) -> str:
        """Until the queue is closed or the peer cannot be reached; why it ended."""
        try:
            with trio.CancelScope() as over:
                if not await self._open():
                    return self._reason
                if not self.outlives_streams:
                    await self._send_all(over)
                    return self._reason
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._hear_counts, over)
                    await self._send_all(over)
                    nursery.cancel_scope.cancel()
            return self._reason
        finally:
            if self._stream is not None:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                    # A clean end tells the peer not to wait for another stream.
                    await (self._stream.close() if self.outlives_streams else self._stream.reset())

    async def _open(self) -> bool:
        try:
            with trio.fail_after(_OPEN_SECONDS):
                self._stream = await self._network.open_stream(self._peer, PROTOCOL)
                self._circuit = self._network.circuit_of(self._peer)
                self.outlives_streams = self._circuit is not None
                await self._greet(self._stream)
        except trio.TooSlowError:
            self._reason = f"no connection within {_OPEN_SECONDS:.0f} s"
        except MoshgridError as error:
            self._reason = why(error)
        else:
            return True
        return False

    async def _greet(self, stream: Stream) -> None:
        await send_frame(stream, encode_greeting(Greeting(self._id, self.outlives_streams)))

    async def _send_all(self, over: trio.CancelScope) -> None:
        try:
            async for header, payload, sent, wanted in self._queue:
                if wanted is not None and not wanted():
                    del payload, sent, wanted
                    continue
                began = trio.current_time()
                with trio.fail_after(_SEND_SECONDS):
                    await self._send(header, payload)
                self._sent(len(header) + len(payload), began, trio.current_time())
                if sent is not None:
                    sent()
                del payload, sent, wanted  # while this waits for the next, nothing of the last is held
        except trio.TooSlowError:
            self._end("took no bytes for too long", over)
        except MoshgridError as error:
            self._end(why(error), over)

    def _end(self, reason: str, over: trio.CancelScope) -> None:
        self._reason = reason
        over.cancel()

    async def _send(self, header: bytes, payload: Payload) -> None:
        assert self._stream is not None
        if not self.outlives_streams:
            await send_frame(self._stream, header, payload)
            return
        async with self._sending:
            if payload:
                await self._move_for_tensors()
            self._kept.add(header, payload)
            try:
                await send_frame(self._stream, header, payload)
            except StreamReset:
                await self._go_on_elsewhere()
        while self._kept.is_full:
            self._acknowledged = trio.Event()
            await self._acknowledged.wait()

    # Over relays ------------------------------------------------------------------------------------

    async def _hear_counts(self, over: trio.CancelScope) -> None:
        """Learns what has come, and that a stream broke while there is nothing to send."""
        try:
            while True:
                stream = self._stream
                assert stream is not None
                try:
                    self._acknowledge(await _read_count(stream))
                except StreamReset:
                    async with self._sending:
                        if self._stream is stream:
                            await self._go_on_elsewhere()
        except MoshgridError as error:
            self._end(why(error), over)

    def _acknowledge(self, count: int) -> None:
        try:
            self._kept.acknowledge(count)
        except ValueError as error:
            raise RemoteProtocolError(self._peer, str(error)) from error
        self._acknowledged.set()

    async def _move_for_tensors(self) -> None:
        """To the direct connection or the fresh circuit that took the place of this link's circuit.

        Raises Unreachable where a relay takes little only.
        """
        if self._circuit is None:
            return
        circuit = self._network.circuit_of(self._peer)
        if circuit is None and not self._network.is_direct(self._peer):
            await self._go_on_elsewhere()
            circuit = self._circuit
        if circuit is not None and not circuit.carries_tensors:
            raise Unreachable(
                self._peer, [(PROTOCOL, "no direct connection for what is too large for a relay")]
            )
        if circuit is not self._circuit:
            await self._take_up()

    async def _go_on_elsewhere(self) -> None:
        """Takes the link up again within the time of grace. Raises Unreachable, RemoteProtocolError."""
        if self._kept.breaks_in_vain():
            raise RemoteProtocolError(self._peer, "ended every stream before it took a frame")
        self._down()
        lost, last = self._circuit, ""
        with trio.move_on_after(GRACE_SECONDS):
            while True:
                try:
                    await self._take_up()
                    return
                except Unreachable as error:
                    last = why(error)
                relay_connected = lost is not None and lost.relay in self._network.connected()
                if not may_be_reached_again(lost is not None, relay_connected):
                    raise Unreachable(self._peer, [(PROTOCOL, last)])
                await trio.sleep(_AGAIN_SECONDS)
        text = f"its relay is gone, and no other way was found in {GRACE_SECONDS:.0f} s"
        raise Unreachable(self._peer, [(PROTOCOL, f"{text}: {last}" if last else text)])

    async def _take_up(self) -> None:
        stream = await self._network.open_stream(self._peer, PROTOCOL)
        done = False
        try:
            circuit = self._network.circuit_of(self._peer)
            await self._greet(stream)
            try:
                missing = self._kept.missing_after(await _read_count(stream))
            except ValueError as error:
                raise RemoteProtocolError(self._peer, str(error)) from error
            for header, payload in missing:
                await send_frame(stream, header, payload)
            done = True
        finally:
            if not done:
                with trio.CancelScope(shield=True):
                    await stream.reset()
        old, self._stream, self._circuit = self._stream, stream, circuit
        self._acknowledged.set()
        if old is not None:
            await old.reset()


async def _read_count(stream: Stream) -> int:
    return int.from_bytes(await read_exactly(stream, COUNT_BYTES), "big")


def why(error: MoshgridError) -> str:
    """What went wrong, without the peer's name: the report and the event have it already."""
    if isinstance(error, RemoteProtocolError):
        return error.reason
    if isinstance(error, Unreachable) and error.attempts:
        return error.attempts[-1][1]
    return str(error)
