"""Part work: what worker threads do to parts, taken in batches because each way there and back costs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

import trio

__all__ = ["Offload", "PartWork", "in_threads", "inline"]

T = TypeVar("T")
Item = TypeVar("Item")
Result = TypeVar("Result")

Offload = Callable[..., Awaitable[Any]]
"""Runs a plain function and returns its value, without holding up the loop."""

_THREADS = trio.CapacityLimiter(2)
_MAX_BATCH = 16


async def in_threads(function: Callable[..., T], *args: Any) -> T:
    """Offloads to worker threads, two at a time."""
    return await trio.to_thread.run_sync(function, *args, limiter=_THREADS)


async def inline(function: Callable[..., T], *args: Any) -> T:
    """Runs at once, in the loop: for virtual time, where threads would be skipped over."""
    await trio.lowlevel.checkpoint()
    return function(*args)


class PartWork(Generic[Item, Result]):
    """Runs ``work(item)`` off the loop and ``done(item, result)`` in it, in the order of ``add``.

    Whatever was added while a batch was away makes the next one.
    """

    def __init__(
        self, offload: Offload, work: Callable[[Item], Result], done: Callable[[Item, Result], None]
    ) -> None:
        self._nursery: trio.Nursery | None = None
        self._offload = offload
        self._work = work
        self._done = done
        self._waiting: list[Item] = []
        self._running = False

    def open(self, nursery: trio.Nursery) -> None:
        """Begins; what is raised by ``work`` or ``done`` is raised in ``nursery``."""
        self._nursery = nursery
        self._begin()

    def add(self, item: Item) -> None:
        """Has ``item`` worked on, once it is open."""
        self._waiting.append(item)
        self._begin()

    def close(self) -> None:
        """Takes nothing more on."""
        self._waiting.clear()
        self._nursery = None

    def _begin(self) -> None:
        if self._nursery is not None and self._waiting and not self._running:
            self._running = True
            self._nursery.start_soon(self._run)

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_MAX_BATCH], self._waiting[_MAX_BATCH:]
                results = await self._offload(work_on_parts, self._work, batch)
                for item, result in zip(batch, results, strict=True):
                    self._done(item, result)
        finally:
            self._running = False


def work_on_parts(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """One batch, in a worker thread."""
    return [work(item) for item in items]
