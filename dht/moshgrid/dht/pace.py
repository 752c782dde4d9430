"""Pace: how late this process's own event loop runs, so that nobody else is blamed for it.

On a computer that is too busy every answer comes late, and a peer that takes silence for death drops
good peers, asks others in their place and is busier still. So patience grows with the own lateness.
"""

from __future__ import annotations

import trio

__all__ = ["Pace"]

_EVERY = 0.25
_LEGS = 16
"""An answer waits for about as many turns of the loop here and, in one process, over there."""
_MOST = 30.0


class Pace:
    """``run`` in a nursery; ``slack`` are the seconds to add to any patience."""

    def __init__(self) -> None:
        self._late = 0.0

    @property
    def slack(self) -> float:
        """Seconds; 0 while the loop is on time."""
        return min(_MOST, _LEGS * self._late) if self._late > 0.02 else 0.0

    def woke(self, late: float) -> None:
        """A timer came ``late`` seconds after its time; lateness is believed at once and forgotten slowly."""
        self._late = max(late, 0.9 * self._late)

    async def run(self) -> None:
        """Measures until cancelled."""
        while True:
            due = trio.current_time() + _EVERY
            await trio.sleep_until(due)
            self.woke(trio.current_time() - due)
