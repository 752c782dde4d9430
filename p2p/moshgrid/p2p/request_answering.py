"""The answering end of a request stream: many queries at once, within the limits of their service."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable
from typing import Generic, TypeVar

import msgspec
import trio

from moshgrid.p2p.complaints import Complaints
from moshgrid.p2p.decoding import Unreadable, decode
from moshgrid.p2p.errors import MoshgridError, RemoteProtocolError, StreamReset
from moshgrid.p2p.framing import FrameReader, send_frame
from moshgrid.p2p.network import Stream
from moshgrid.p2p.request_budget import Budget
from moshgrid.p2p.request_channel import ANSWER, CANCEL, HEADER, MAX_REASON, QUERY, REFUSED, SEND_SECONDS
from moshgrid.p2p.request_service import RequestHandler, Service

__all__ = ["Answering"]

Query = TypeVar("Query")
Answer = TypeVar("Answer")

_TURN, _AT_LEAST = 16 * 1024, 1024
"""Bytes of queries answered in a row before other tasks get their turn, and what the shortest counts for."""


class Answering(Generic[Query, Answer]):
    """Reads the queries of one stream and sends their answers."""

    def __init__(
        self,
        stream: Stream,
        service: Service[Query, Answer],
        handler: RequestHandler[Query, Answer],
        budget: Budget,
        complaints: Complaints,
    ) -> None:
        self._stream = stream
        self._budget = budget
        self._complaints = complaints
        self._service = service
        self._handler = handler
        self._sending = trio.Lock()
        self._running: dict[int, trio.CancelScope] = {}
        self._unrested = 0

    async def run(self) -> None:
        """Until the stream is over. Raises StreamReset, or RemoteProtocolError for what breaks the rules."""
        reader = FrameReader(self._stream, self._service.max_query + HEADER)
        async with trio.open_nursery() as nursery:
            try:
                with trio.move_on_after(self._service.first_seconds) as patience:
                    await reader.begins()
                if patience.cancelled_caught:
                    raise RemoteProtocolError(
                        self._stream.peer,
                        f"opened a stream and asked nothing within {self._service.first_seconds:g} s",
                    )
                while (frame := await self._next_frame(reader)) is not None:
                    if len(frame) < HEADER:
                        raise RemoteProtocolError(self._stream.peer, "sent a query without a header")
                    kind, call_id = frame[0], int.from_bytes(frame[1:5], "big")
                    if kind == CANCEL:
                        if (scope := self._running.get(call_id)) is not None:
                            scope.cancel()
                    elif kind != QUERY or call_id in self._running:
                        raise RemoteProtocolError(self._stream.peer, f"sent frame kind {kind} out of turn")
                    else:
                        await self._take(call_id, frame[HEADER:], nursery)
            finally:
                nursery.cancel_scope.cancel()

    async def _next_frame(self, reader: FrameReader) -> bytes | None:
        if not await reader.begins():
            return None
        if (frame := reader.take_whole()) is not None:
            return frame
        with trio.move_on_after(self._service.read_seconds):
            return await reader.read()
        raise RemoteProtocolError(
            self._stream.peer,
            f"sent a part of a query and not the rest within {self._service.read_seconds:g} s",
        )

    async def _take(self, call_id: int, body: bytes, nursery: trio.Nursery) -> None:
        if wait := self._budget.bucket.reserve(trio.current_time()):
            await trio.sleep(wait)
        if self._budget.running >= self._service.concurrency:
            limit = f"more than {self._service.concurrency} requests at once"
            await self._send(REFUSED, limit.encode(), call_id)
            return
        began = self._begin(body)
        if not isinstance(began, Awaitable):
            await self._send(*began, call_id)
            await self._take_turns(len(body))
            return
        self._budget.running += 1
        deadline = trio.current_time() + self._service.deadline
        scope = self._running[call_id] = trio.CancelScope(deadline=deadline)
        nursery.start_soon(self._answer, scope, call_id, began)

    async def _take_turns(self, size: int) -> None:
        self._unrested += max(size, _AT_LEAST)
        if self._unrested >= _TURN:
            self._unrested = 0
            await trio.lowlevel.checkpoint()

    async def _answer(self, scope: trio.CancelScope, call_id: int, began: Awaitable[Answer]) -> None:
        kind, reply = REFUSED, b"the request took too long"
        try:
            with scope:
                kind, reply = await self._reply(began)
        finally:
            del self._running[call_id]
            self._budget.running -= 1
        with contextlib.suppress(StreamReset):  # the asker is gone; the reading side ends the stream
            await self._send(kind, reply, call_id)

    def _begin(self, body: bytes) -> Awaitable[Answer] | tuple[int, bytes]:
        """The reply to a query, or what to await for its answer."""
        try:
            query = decode(self._service.query_decoder, body)
        except Unreadable as error:
            return REFUSED, f"the query cannot be read: {error}".encode()
        try:
            answer = self._handler(self._stream.peer, query)
        except Exception as error:
            return self._refusal(error)
        return answer if isinstance(answer, Awaitable) else self._encode(answer)

    async def _reply(self, began: Awaitable[Answer]) -> tuple[int, bytes]:
        try:
            answer = await began
        except Exception as error:
            return self._refusal(error)
        return self._encode(answer)

    def _refusal(self, error: Exception) -> tuple[int, bytes]:
        if isinstance(error, MoshgridError):
            return REFUSED, str(error).encode()[:MAX_REASON]
        # A bug in one handler must not take the node down: this is the root of its task.
        kind = (self._service.protocol, type(error))
        self._complain(kind, "%s: answering a request of %s failed", error=error)
        return REFUSED, b"internal error"

    def _encode(self, answer: Answer) -> tuple[int, bytes]:
        try:
            encoded = msgspec.msgpack.encode(answer)
        except Exception as error:
            return self._refusal(error)
        if len(encoded) > self._service.max_answer:
            text = f"%s: an answer to %s has {len(encoded)} bytes, over the limit"
            self._complain((self._service.protocol, "size"), text)
            return REFUSED, b"internal error: the answer is too large"
        return ANSWER, encoded

    def _complain(self, kind: object, text: str, error: Exception | None = None) -> None:
        protocol, peer = self._stream.protocol, self._stream.peer
        self._complaints.say(logging.ERROR, kind, trio.current_time(), text, protocol, peer, error=error)

    async def _send(self, kind: int, body: bytes, call_id: int) -> None:
        try:
            self._sending.acquire_nowait()  # a turn of the loop would cost as much as sending
        except trio.WouldBlock:
            await self._sending.acquire()
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + SEND_SECONDS) as scope:
                await send_frame(self._stream, bytes([kind]) + call_id.to_bytes(4, "big"), body)
        finally:
            self._sending.release()
        if scope.cancelled_caught:
            await self._stream.reset()
