"""Typed requests: one long-lived stream per peer and service carries many at once.

Wire format on a stream of ``/moshgrid/<service>/<version>``: frames of a 4-byte length, then a kind
byte, a 4-byte request id and a msgpack body. A stream may be idle, but a frame that has begun must be
whole within a deadline; sizes are checked before allocation; a peer may have only so many requests in
work at once and so many a second, over however many streams.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar, cast

import msgspec
import trio

from moshgrid.p2p.complaints import Complaints
from moshgrid.p2p.decoding import Unreadable, decode
from moshgrid.p2p.errors import Closed, MoshgridError, RemoteProtocolError, StreamReset, Unreachable
from moshgrid.p2p.framing import FrameReader, send_frame
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.network import Network, Stream
from moshgrid.p2p.request_budget import Budget, Budgets
from moshgrid.p2p.request_channel import (
    ANSWER,
    CANCEL,
    HEADER,
    MAX_REASON,
    QUERY,
    REFUSED,
    SEND_SECONDS,
    Refused,
    RequestChannel,
)

__all__ = ["RequestHandler", "Requests", "Service"]

Query = TypeVar("Query")
Answer = TypeVar("Answer")

_log = logging.getLogger("moshgrid.p2p")


@dataclass(frozen=True)
class Service(Generic[Query, Answer]):
    """A request protocol: its id, its message types and its limits."""

    protocol: str
    """``/moshgrid/<service>/<version>``."""
    query: Any
    """A msgspec struct, or a union of tagged ones."""
    answer: Any
    """The same for what comes back."""
    max_query: int = 16 * 1024
    """Bytes of an encoded query."""
    max_answer: int = 128 * 1024
    """Bytes of an encoded answer."""
    deadline: float = 10.0
    """Seconds a handler may take, and the default wait of a caller."""
    concurrency: int = 32
    """Queries of one peer in work at once; more are refused."""
    rate: float = 2000.0
    """Queries a second of one peer in the long run; more are not read until it is their turn."""
    burst: float = 4000.0
    """Queries of one peer that may come faster than that, after a pause."""
    streams: int = 8
    """Streams of one peer; more are reset."""
    read_seconds: float = 10.0
    """From the first byte of a query to its last."""
    first_seconds: float = 60.0
    """From a stream's first moment until its first query begins; after that it may be idle."""

    @cached_property
    def query_decoder(self) -> msgspec.msgpack.Decoder[Any]:
        """Decodes queries."""
        return msgspec.msgpack.Decoder(self.query)

    @cached_property
    def answer_decoder(self) -> msgspec.msgpack.Decoder[Any]:
        """Decodes answers."""
        return msgspec.msgpack.Decoder(self.answer)


RequestHandler = Callable[[PeerId, Query], Awaitable[Answer]]
"""Answers one query. Raising MoshgridError refuses it with that text; the stream goes on."""


class Requests:
    """Asks peers and answers them, over any ``Network``."""

    def __init__(self, network: Network, nursery: trio.Nursery) -> None:
        self._network = network
        self._nursery = nursery
        self._channels: dict[tuple[PeerId, str], RequestChannel] = {}
        self._complaints = Complaints(_log)
        self._opening: dict[tuple[PeerId, str], trio.Lock] = {}

    def serve(self, service: Service[Query, Answer], handler: RequestHandler[Query, Answer]) -> None:
        """Answers queries of ``service`` with ``handler`` from now on."""

        budgets = Budgets(service.rate, service.burst)

        async def answer_stream(stream: Stream) -> None:
            budget = budgets.open(stream.peer, trio.current_time())
            try:
                if budget.streams > service.streams:
                    raise RemoteProtocolError(stream.peer, f"opened more than {service.streams} streams")
                await _Answering(stream, service, handler, budget, self._complaints).run()
            finally:
                budgets.close(stream.peer)

        self._network.serve(service.protocol, answer_stream)

    async def ask(
        self, peer: PeerId, service: Service[Query, Answer], query: Query, timeout: float | None = None
    ) -> Answer:
        """Sends ``query`` and waits at most ``timeout`` seconds (default: the service's deadline).

        Raises Unreachable (no connection, or no answer in time) and RemoteProtocolError (refused,
        or an answer that breaks the rules). Cancelling the caller cancels the work over there.
        """
        body = msgspec.msgpack.encode(query)
        wait = service.deadline if timeout is None else timeout
        with trio.move_on_after(wait):
            channel = await self._channel(peer, service)
            try:
                answer = await channel.call(body)
            except Refused as refusal:
                raise RemoteProtocolError(peer, str(refusal)) from None
            try:
                return cast(Answer, decode(service.answer_decoder, answer))
            except Unreadable as error:
                raise RemoteProtocolError(peer, f"sent an answer that cannot be read: {error}") from error
        raise Unreachable(peer, [(service.protocol, f"no answer within {wait:.3g} s")])

    async def _channel(self, peer: PeerId, service: Service[Query, Answer]) -> RequestChannel:
        key = (peer, service.protocol)
        if (channel := self._usable(key)) is not None:
            return channel
        async with self._one_at_a_time(key):
            if (channel := self._usable(key)) is not None:
                return channel
            stream = await self._network.open_stream(peer, service.protocol)
            if (relayed := self._channels.get(key)) is not None:
                relayed.retire()
            direct = self._network.is_direct(peer)
            channel = self._channels[key] = RequestChannel(stream, service.max_answer, direct)
            self._nursery.start_soon(self._run_channel, key, channel, stream)
            return channel

    def _usable(self, key: tuple[PeerId, str]) -> RequestChannel | None:
        """The channel to go on with: not one through a relay when the peer has become direct."""
        channel = self._channels.get(key)
        if channel is None or channel.broken is not None:
            return None
        return channel if channel.direct or not self._network.is_direct(key[0]) else None

    @asynccontextmanager
    async def _one_at_a_time(self, key: tuple[PeerId, str]) -> AsyncIterator[None]:
        lock = self._opening.setdefault(key, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._opening.pop(key, None)

    async def _run_channel(self, key: tuple[PeerId, str], channel: RequestChannel, stream: Stream) -> None:
        try:
            await channel.run()
        finally:
            channel.fail(Closed("the request stream is closed"))
            if self._channels.get(key) is channel:
                del self._channels[key]
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                await stream.reset()


class _Answering(Generic[Query, Answer]):
    """The answering end of one stream."""

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

    async def run(self) -> None:
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
            await self._send(REFUSED, call_id, limit.encode())
            return
        self._budget.running += 1
        deadline = trio.current_time() + self._service.deadline
        scope = self._running[call_id] = trio.CancelScope(deadline=deadline)
        nursery.start_soon(self._answer, scope, call_id, body)

    async def _answer(self, scope: trio.CancelScope, call_id: int, body: bytes) -> None:
        kind, reply = REFUSED, b"the request took too long"
        try:
            with scope:
                kind, reply = await self._reply(body)
        finally:
            del self._running[call_id]
            self._budget.running -= 1
        with contextlib.suppress(StreamReset):  # the asker is gone; the reading side ends the stream
            await self._send(kind, call_id, reply)

    async def _reply(self, body: bytes) -> tuple[int, bytes]:
        peer, protocol = self._stream.peer, self._service.protocol
        try:
            query = decode(self._service.query_decoder, body)
        except Unreadable as error:
            return REFUSED, f"the query cannot be read: {error}".encode()
        try:
            answer = msgspec.msgpack.encode(await self._handler(peer, query))
        except MoshgridError as error:
            return REFUSED, str(error).encode()[:MAX_REASON]
        except Exception as error:
            # A bug in one handler must not take the node down: this is the root of its task.
            self._complain((protocol, type(error)), "%s: answering a request of %s failed", error=error)
            return REFUSED, b"internal error"
        if len(answer) > self._service.max_answer:
            text = f"%s: an answer to %s has {len(answer)} bytes, over the limit"
            self._complain((protocol, "size"), text)
            return REFUSED, b"internal error: the answer is too large"
        return ANSWER, answer

    def _complain(self, kind: object, text: str, error: Exception | None = None) -> None:
        protocol, peer = self._stream.protocol, self._stream.peer
        self._complaints.say(logging.ERROR, kind, trio.current_time(), text, protocol, peer, error=error)

    async def _send(self, kind: int, call_id: int, body: bytes) -> None:
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
