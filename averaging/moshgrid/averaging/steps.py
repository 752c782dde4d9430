"""Steps: one at a time, and none goes on once the averager is closed. Awaits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from moshgrid.p2p.errors import Closed

__all__ = ["Steps"]


class Steps:
    """The steps of one averager."""

    def __init__(self) -> None:
        self._turn = trio.Lock()
        self._scopes: set[trio.CancelScope] = set()
        self.closed = False

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Holds the turn. Raises Closed, there and then, when the averager is closed."""
        if self.closed:
            raise Closed("the averager was closed")
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                async with self._turn:
                    yield
            finally:
                self._scopes.discard(scope)
        if scope.cancelled_caught:
            raise Closed("the averager was closed during the step")

    async def aclose(self) -> None:
        """Ends those that go on; an average that is being applied is applied as a whole."""
        self.closed = True
        for scope in self._scopes:
            scope.cancel()
        async with self._turn:
            pass
