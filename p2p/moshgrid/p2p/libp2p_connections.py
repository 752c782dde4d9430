"""Live connections: who is connected, each one's task, and the end of each."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

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
        self._relayed_listeners: dict[object, Callable[[YamuxConnection], None]] = {}
        self._began_listeners: dict[object, Callable[[YamuxConnection], None]] = {}

    def of(self, peer: PeerId) -> list[YamuxConnection]:
        """The live ones with ``peer``, the oldest first."""
        return list(self._live.get(peer, ()))

    def usable(self, peer: PeerId) -> list[YamuxConnection]:
        """Those with ``peer`` that neither side is about to end: direct ones first, then the newest."""
        living = [each for each in reversed(self.of(peer)) if not each.is_ending]
        return sorted(living, key=lambda each: each.is_relayed)

    def is_direct(self, peer: PeerId) -> bool:
        """True when bytes to ``peer`` pass through nobody's hands."""
        return any(not each.is_relayed for each in self.usable(peer))

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
        """Tells nobody of anything any more."""
        self._listeners.clear()
        self._relayed_listeners.clear()
        self._began_listeners.clear()

    def on_lost(self, listener: Callable[[PeerId], None]) -> Callable[[], None]:
        """Calls ``listener`` when the last connection to a peer ends, until the result is called."""
        return _put_on(self._listeners, listener)

    def on_relayed(self, listener: Callable[[YamuxConnection], None]) -> Callable[[], None]:
        """Calls ``listener`` with each relayed connection that is up, whoever dialled."""
        return _put_on(self._relayed_listeners, listener)

    def on_began(self, listener: Callable[[YamuxConnection], None]) -> Callable[[], None]:
        """Calls ``listener`` with each connection as soon as streams can be opened on it."""
        return _put_on(self._began_listeners, listener)

    def connection_began(self, connection: YamuxConnection) -> None:
        """A connection was authenticated."""
        self._live.setdefault(connection.peer, []).append(connection)
        for listener in list(self._began_listeners.values()):
            listener(connection)

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
        A peer that opens one connection too many loses its oldest, a relayed one if there is any: it may be
        dead without our knowing.
        """
        together = [*self.of(connection.peer), connection]
        if len(together) > self._limits.per_peer:
            together.sort(key=lambda each: not each.is_relayed)
            together[0].driver.leave("the peer opened another connection")
        known = host.know(connection)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.start)
                await connection.event_started.wait()
                task_status.started()
                if connection.is_relayed and not connection.over.is_set():
                    for listener in list(self._relayed_listeners.values()):
                        listener(connection)
                try:
                    while True:
                        nursery.start_soon(inbound.take, await connection.accept_stream())
                except MuxedConnUnavailable as error:
                    _log.debug("%s: %s", connection.peer, error)
                over()
                nursery.cancel_scope.deadline = trio.current_time() + self._limits.orphan_seconds
        finally:
            host.forget(known)


Listener = TypeVar("Listener")


def _put_on(listeners: dict[object, Listener], listener: Listener) -> Callable[[], None]:
    """Adds it; the result takes it off again."""
    key = object()
    listeners[key] = listener

    def take_off() -> None:
        listeners.pop(key, None)

    return take_off
