"""The timer queue: one task that calls whoever's time has come, for any number of connections.

A task and a deadline of its own for each connection would cost a computer with thousands of them a good part
of its time, only to find out that nothing is due.
"""

from __future__ import annotations

import heapq
import logging
import math
from collections.abc import Callable

import trio

__all__ = ["Timer", "TimerQueue", "timer_queue"]

_log = logging.getLogger("moshgrid.p2p")
_QUEUE = trio.lowlevel.RunVar["TimerQueue"]("moshgrid timer queue")


class Timer:
    """Calls ``due`` once each time that it was set and its time has come; ``due`` must not wait."""

    __slots__ = ("_due", "_queue", "when")

    def __init__(self, queue: TimerQueue, due: Callable[[], None]) -> None:
        self._queue = queue
        self._due: Callable[[], None] | None = due
        self.when = math.inf
        """When it is due, on trio's clock; infinity for never."""

    def set(self, when: float) -> None:
        """Due at ``when``, and no more at the time that was set before. Infinity: never."""
        if when == self.when or self._due is None:
            return
        self.when = when
        if when < math.inf:
            self._queue.push(when, self)

    def stop(self) -> None:
        """Never again, and what it called is forgotten."""
        self.when, self._due = math.inf, None

    def fire(self) -> None:
        """Its time has come."""
        self.when = math.inf
        if self._due is not None:
            self._due()


class TimerQueue:
    """All timers of one run of the event loop; ``timer_queue`` gives the one there is."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._pushed = 0
        self._alarm = trio.CancelScope()

    def push(self, when: float, timer: Timer) -> None:
        """``timer`` is due at ``when``, unless it is set to something else until then."""
        heapq.heappush(self._heap, (when, self._pushed, timer))
        self._pushed += 1
        if when < self._alarm.deadline:
            self._alarm.deadline = when

    async def run(self) -> None:
        """Calls what is due, for ever."""
        while True:
            first = self._heap[0][0] if self._heap else math.inf
            with trio.CancelScope(deadline=first) as self._alarm:
                await trio.sleep_forever()
            self._call_due(trio.current_time())

    def _call_due(self, now: float) -> None:
        due = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap))
        for when, _, timer in due:
            if timer.when != when:
                continue  # it was set to another time since
            try:
                timer.fire()
            except Exception:  # this is the root of a task that all connections share
                _log.exception("a timer failed")


def timer_queue() -> TimerQueue:
    """The queue of this run of the event loop; begins it on first use."""
    try:
        return _QUEUE.get()
    except LookupError:
        queue = TimerQueue()
        _QUEUE.set(queue)
        trio.lowlevel.spawn_system_task(queue.run, name="moshgrid timer queue")
        return queue
