"""Connections over which nothing happens: strangers' ones end after a while, for the place that they take.

A connection is idle while no stream is open on it, whoever would have opened it. A stream that is open and
silent keeps it: a watch is told of changes that may take an hour, and a round's members think for minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio

from moshgrid.p2p.identity import PeerId

__all__ = ["IdleConnections", "Watched"]

_LOOKS = 4
"""In the time after which an idle connection ends: it ends up to a quarter later."""


class Watched(Protocol):
    """What is looked at."""

    @property
    def peer(self) -> PeerId:
        """Whose connection it is."""

    @property
    def open_streams(self) -> int:
        """How many there are now."""

    @property
    def streams_ever(self) -> int:
        """A number that grows with every stream that either side opens."""

    def leave(self, reason: str) -> None:
        """Says goodbye and ends."""


class IdleConnections:
    """Ends each watched connection on which no stream was open for ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self.wanted: list[Callable[[PeerId], bool]] = []
        """Says True of a peer whose connections may stay however idle they are."""
        self._seconds = seconds
        self._since: dict[Watched, tuple[float, int]] = {}

    def watch(self, connection: Watched, now: float) -> None:
        """From now on; ``forget`` must follow."""
        self._since[connection] = now, connection.streams_ever

    def forget(self, connection: Watched) -> None:
        """It is over."""
        self._since.pop(connection, None)

    def look(self, now: float) -> list[Watched]:
        """Those that have been idle for too long, and are not watched any more."""
        tired = []
        for connection, (since, streams) in list(self._since.items()):
            busy = connection.open_streams or connection.streams_ever != streams
            if busy or any(wanted(connection.peer) for wanted in self.wanted):
                self._since[connection] = now, connection.streams_ever
            elif now - since >= self._seconds:
                del self._since[connection]
                tired.append(connection)
        return tired

    async def run(self) -> None:
        """Looks now and then, for ever."""
        while True:
            await trio.sleep(self._seconds / _LOOKS)
            for connection in self.look(trio.current_time()):
                connection.leave(f"nothing was asked for {self._seconds:g} s")
