"""Live connections: who is connected, each one's task, and the end of each."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import trio
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable

from moshgrid.p2p.complaints import Complaints
from moshgrid.p2p.connection_limits import ConnectionLimits
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.libp2p_inbound import InboundStreams
from moshgrid.p2p.libp2p_swarm import QuietHost
from moshgrid.p2p.libp2p_yamux import YamuxConnection

__all__ = ["Connections"]

_log = logging.getLogger("moshgrid.p2p")


class Connections:
    """The connections of this peer, whoever dialled."""

    def __init__(self, limits: ConnectionLimits, complaints: Complaints) -> None:
        self._limits = limits
        self._complaints = complaints
        self._live: dict[PeerId, list[YamuxConnection]] = {}
        self._listeners: dict[object, Callable[[PeerId], None]] = {}

    def of(self, peer: PeerId) -> list[YamuxConnection]:
        """The live ones with ``peer``, the oldest first."""
        return list(self._live.get(peer, ()))

    def peers(self) -> frozenset[PeerId]:
        """Peers with a live connection."""
        return frozenset(self._live)

    def all(self) -> list[YamuxConnection]:
        """Every live connection."""
        return [connection for connections in self._live.values() for connection in connections]

    def clear(self) -> None:
        """Forgets them; nobody is told."""
        self._live.clear()

    def forget_listeners(self) -> None:
        """Tells nobody of losses any more."""
        self._listeners.clear()

    def on_lost(self, listener: Callable[[PeerId], None]) -> Callable[[], None]:
        """Calls ``listener`` when the last connection to a peer ends, until the result is called."""
        key = object()
        self._listeners[key] = listener

        def take_off() -> None:
            self._listeners.pop(key, None)

        return take_off

    def connection_began(self, connection: YamuxConnection) -> None:
        """A connection was authenticated."""
        self._live.setdefault(connection.peer, []).append(connection)

    def connection_ended(self, connection: YamuxConnection) -> None:
        """A connection is gone."""
        if (fault := connection.fault) is not None:
            text = "%s: disconnected, because it %s"
            self._complaints.say(logging.WARNING, "fault", trio.current_time(), text, connection.peer, fault)
        live = self._live.get(connection.peer, [])
        if connection not in live:
            return
        live.remove(connection)
        if live:
            return
        del self._live[connection.peer]
        for listener in list(self._listeners.values()):
            listener(connection.peer)

    async def run(
        self,
        connection: YamuxConnection,
        inbound: InboundStreams,
        host: QuietHost,
        over: Callable[[], None],
        task_status: Any = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Runs ``connection`` until it is over, handing the peer's streams to ``inbound``.

        Then calls ``over``, and returns when the streams' handlers have ended too: one that finishes what
        it received may, and one that waits for ever may not.
        A peer that opens one connection too many loses its oldest: it may be dead without our knowing.
        """
        others = self.of(connection.peer)
        if len(others) >= self._limits.per_peer:
            others[0].driver.leave("the peer opened another connection")
        known = host.know(connection)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.start)
                await connection.event_started.wait()
                task_status.started()
                try:
                    while True:
                        nursery.start_soon(inbound.take, await connection.accept_stream())
                except MuxedConnUnavailable as error:
                    _log.debug("%s: %s", connection.peer, error)
                over()
                nursery.cancel_scope.deadline = trio.current_time() + self._limits.orphan_seconds
        finally:
            host.forget(known)
