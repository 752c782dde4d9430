"""Pace: how slowly this process's own event loop turns, so that nobody else is blamed for it.

On a computer that is too busy every answer comes late, and a peer that takes silence for death drops
good peers, asks others in their place and is busier still. So patience grows with the time that a turn
of the loop takes.
"""

from __future__ import annotations

__all__ = ["Pace"]

_TURNS = 32
"""Of the loop, for a question here and its answer over there, when both are in one process."""
_LEAST, _MOST = 0.005, 30.0


class Pace:
    """``slack`` are the seconds to add to any patience. Time is an argument."""

    def __init__(self) -> None:
        self._turn = 0.0

    @property
    def slack(self) -> float:
        """Seconds; 0 while a turn takes a few milliseconds."""
        return min(_MOST, _TURNS * self._turn) if self._turn > _LEAST else 0.0

    def turned(self, seconds: float) -> None:
        """A turn took ``seconds``: slowness is believed at once and forgotten over some turns."""
        self._turn = max(seconds, 0.9 * self._turn)
