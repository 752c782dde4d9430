"""Typed requests: one long-lived stream per peer and service carries many at once.

Wire format on a stream of ``/moshgrid/<service>/<version>``: frames of a 4-byte length, then a kind
byte, a 4-byte request id and a msgpack body. A stream may be idle, but a frame that has begun must be
whole within a deadline; sizes are checked before allocation; a peer may have only so many requests in
work at once and so many a second, over however many streams.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar, cast

import msgspec
import trio

from moshgrid.p2p.complaints import Complaints
from moshgrid.p2p.decoding import Unreadable, decode
from moshgrid.p2p.errors import Closed, RemoteProtocolError, Unreachable
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.network import Network, Stream
from moshgrid.p2p.request_answering import Answering
from moshgrid.p2p.request_budget import Budgets
from moshgrid.p2p.request_channel import Refused, RequestChannel
from moshgrid.p2p.request_service import RequestHandler, Service

__all__ = ["RequestHandler", "Requests", "Service"]

Query = TypeVar("Query")
Answer = TypeVar("Answer")

_log = logging.getLogger("moshgrid.p2p")


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
                await Answering(stream, service, handler, budget, self._complaints).run()
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
