"""Keeping: a record that is refreshed until it is let go."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import TYPE_CHECKING, Any

import trio

from moshgrid.dht.writing import PutReport
from moshgrid.p2p.errors import Closed, RecordRejected, Unreachable

if TYPE_CHECKING:
    from moshgrid.dht.dht_node import DHTNode

__all__ = ["Keep"]

_log = logging.getLogger("moshgrid.dht")


class Keep:
    """Puts a record now and again every third of its life. ``aclose`` lets it expire."""

    def __init__(self, node: DHTNode, key: str, value: Any, ttl: float, suffix: str) -> None:
        self._node = node
        self._key = key
        self._value = value
        self._ttl = ttl
        self._suffix = suffix
        self._scope = trio.CancelScope()
        self._put_at = -ttl
        self._first = trio.Event()

    async def run(self) -> None:
        """Refreshes until closed; started by ``DHTNode.keep``."""
        with self._scope:
            while True:
                due = self._put_at + self._ttl / 3 * self._node.host.rng.uniform(0.9, 1.1)
                await trio.sleep_until(due)
                if self._put_at + self._ttl / 4 > trio.current_time():
                    continue  # an update came in between
                try:
                    await self.update(self._value)
                except (Unreachable, RecordRejected) as error:
                    _log.warning("%s could not be refreshed, will try again: %s", self._key, error)
                self._first.set()

    async def update(self, value: Any) -> PutReport:
        """Puts ``value`` at once and refreshes it from now on."""
        if self._scope.cancel_called:
            raise Closed(f"the kept record {self._key} was closed")
        self._value = value
        self._put_at = trio.current_time()
        return await self._node.put(self._key, value, self._ttl, self._suffix)

    async def aclose(self) -> None:
        """Stops refreshing. The record stays until it expires; ``DHTNode.delete`` takes it back."""
        self._scope.cancel()
        await trio.lowlevel.checkpoint()

    async def __aenter__(self) -> Keep:
        await self._first.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
