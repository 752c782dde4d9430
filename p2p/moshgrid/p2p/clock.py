"""Where time comes from: a monotonic clock for deadlines and a wall clock for records."""

from __future__ import annotations

import time

import trio

__all__ = ["Clock", "VirtualClock"]


class Clock:
    """Real time. ``now`` follows the event loop's clock, ``wall_ms`` the computer's."""

    def now(self) -> float:
        """Seconds on a monotonic clock; only differences mean something."""
        return trio.current_time()

    def wall_ms(self) -> int:
        """Unix time in milliseconds."""
        return time.time_ns() // 1_000_000


class VirtualClock(Clock):
    """Both clocks follow the event loop's, so that a mocked loop clock moves the wall clock too."""

    def __init__(self, start_ms: int = 1_700_000_000_000) -> None:
        self._start_ms = start_ms

    def wall_ms(self) -> int:
        return self._start_ms + round(trio.current_time() * 1000)
