"""A new circuit before the old one is used up, so that whoever opens streams all the time notices nothing."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from moshgrid.p2p.errors import Closed, Unreachable
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.libp2p_yamux import YamuxConnection

__all__ = ["CircuitRenewal"]

_log = logging.getLogger("moshgrid.p2p")

_SHARE = 0.7
"""Of what a circuit may carry, or of its time."""
_LINGER_SECONDS = 1.0


class CircuitRenewal:
    """Watches the circuits that we asked for; ``dial_again`` makes another one with the same peer."""

    def __init__(
        self,
        nursery: trio.Nursery,
        dial_again: Callable[[PeerId], Awaitable[None]],
        is_direct: Callable[[PeerId], bool],
    ) -> None:
        self._nursery = nursery
        self._dial_again = dial_again
        self._is_direct = is_direct

    def began(self, connection: YamuxConnection) -> None:
        """A relayed connection is up."""
        if (
            connection.is_initiator
            and connection.circuit is not None
            and connection.circuit.limit is not None
        ):
            self._nursery.start_soon(self._watch, connection)

    async def _watch(self, connection: YamuxConnection) -> None:
        assert connection.circuit is not None and connection.circuit.limit is not None
        limit = connection.circuit.limit
        worn, streams = trio.Event(), connection.streams_ever
        connection.circuit.meter.call_at(int(limit.bytes * _SHARE), worn.set)
        with trio.move_on_after(limit.seconds * _SHARE or float("inf")):
            async with trio.open_nursery() as nursery:
                for event in (worn, connection.over):
                    nursery.start_soon(_cancel_after, event, nursery.cancel_scope)
        used = connection.open_streams or connection.streams_ever != streams
        if connection.is_ending or not used or self._is_direct(connection.peer):
            return
        try:
            await self._dial_again(connection.peer)
        except (Unreachable, Closed) as error:
            _log.debug("%s: no new circuit before the old one ends: %s", connection.peer, error)
            return
        while not connection.is_ending and connection.open_streams:
            with trio.move_on_after(_LINGER_SECONDS):
                await connection.over.wait()
        connection.leave("a new circuit takes over")


async def _cancel_after(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
