"""The asking end of a request stream: many calls at once, each answered by its id."""

from __future__ import annotations

from collections import deque

import trio

from moshgrid.p2p.errors import MoshgridError, RemoteProtocolError, StreamReset, Unreachable
from moshgrid.p2p.framing import FrameReader, send_frame
from moshgrid.p2p.network import Stream
from moshgrid.p2p.seat import Seat

__all__ = [
    "ANSWER",
    "CANCEL",
    "HEADER",
    "MAX_REASON",
    "QUERY",
    "REFUSED",
    "SEND_SECONDS",
    "Refused",
    "RequestChannel",
]

QUERY, ANSWER, REFUSED, CANCEL = 0, 1, 2, 3
HEADER = 5
MAX_REASON = 512
SEND_SECONDS = 10.0


class Refused(MoshgridError):
    """The peer refused the query; the text is its reason."""


class _Call:
    __slots__ = ("outcome", "seat")

    def __init__(self) -> None:
        self.seat = Seat()
        self.outcome: bytes | Exception | None = None

    def finish(self, outcome: bytes | Exception) -> None:
        if self.outcome is None:
            self.outcome = outcome
            self.seat.wake()


class RequestChannel:
    """The asking end of one stream: matches answers to calls by id. ``direct``: it goes through no relay."""

    def __init__(self, stream: Stream, max_answer: int, direct: bool = True) -> None:
        self._stream = stream
        self.direct = direct
        self._retired = False
        self._scope = trio.CancelScope()
        self._reader = FrameReader(stream, max_answer + HEADER)
        # A task of the channel sends, so that a cancelled caller leaves at once and no frame is cut. The
        # queue holds one query or one cancellation for each call of ours.
        self._queue: deque[tuple[int, int, bytes]] = deque()
        self._sender = Seat()
        self._calls: dict[int, _Call] = {}
        self._next_id = 0
        self.broken: Exception | None = None

    async def call(self, body: bytes) -> bytes:
        """The answer to one query. Raises Refused, or what ended the stream."""
        if self.broken is not None:
            raise self.broken
        call_id, self._next_id = self._next_id, (self._next_id + 1) % 2**32
        call = self._calls[call_id] = _Call()
        query = (QUERY, call_id, body)
        self._put(query)
        try:
            await call.seat.wait()
        except trio.Cancelled:
            if query in self._queue:
                self._queue.remove(query)
            elif self.broken is None:
                self._put((CANCEL, call_id, b""))
            raise
        finally:
            del self._calls[call_id]
            self._end_when_done()
        if isinstance(call.outcome, bytes):
            return call.outcome
        assert call.outcome is not None
        raise call.outcome

    def _put(self, item: tuple[int, int, bytes]) -> None:
        self._queue.append(item)
        self._sender.wake()

    async def run(self) -> None:
        """Sends and receives until the stream is over."""
        with self._scope:
            await self._run()

    def retire(self) -> None:
        """No more calls will come: the stream ends with the last answer."""
        self._retired = True
        self._end_when_done()

    def _end_when_done(self) -> None:
        if self._retired and not self._calls:
            self._scope.cancel()

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_queries, nursery.cancel_scope)
            await self._receive_answers()
            nursery.cancel_scope.cancel()

    async def _send_queries(self, scope: trio.CancelScope) -> None:
        try:
            while True:
                while self._queue:
                    kind, call_id, body = self._queue.popleft()
                    with trio.move_on_after(SEND_SECONDS) as patience:
                        await send_frame(self._stream, bytes([kind]) + call_id.to_bytes(4, "big"), body)
                    if patience.cancelled_caught:
                        silence = f"took no bytes for {SEND_SECONDS:g} s"
                        raise Unreachable(self._stream.peer, [(self._stream.protocol, silence)])
                await self._sender.wait()
        except MoshgridError as error:
            self.fail(error)
        scope.cancel()

    async def _receive_answers(self) -> None:
        try:
            while (frame := await self._reader.read()) is not None:
                if len(frame) < HEADER:
                    raise RemoteProtocolError(self._stream.peer, "sent an answer without a header")
                call = self._calls.get(int.from_bytes(frame[1:5], "big"))
                if call is None:
                    continue  # the caller has given up waiting
                if frame[0] == ANSWER:
                    call.finish(frame[HEADER:])
                else:
                    call.finish(Refused(frame[HEADER : HEADER + MAX_REASON].decode(errors="replace")))
                del call, frame  # what is over is not to be kept until the next answer
            self.fail(StreamReset(self._stream.peer, [(self._stream.protocol, "the peer closed the stream")]))
        except MoshgridError as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Ends every call with ``error``; the first error counts."""
        self.broken = self.broken or error
        for call in self._calls.values():
            call.finish(self.broken)
