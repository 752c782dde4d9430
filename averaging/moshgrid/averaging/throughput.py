"""Throughput: how fast this host has been seen to move bytes, each way. Pure.

What a round moves is mostly limited by its slowest member, so what counts is the best half second, not
the mean; bursts shorter than that fit into buffers and say nothing. An estimate fades when it is not
reached again.
"""

from __future__ import annotations

import math

__all__ = ["Throughput"]

_WINDOW = 0.5
_IDLE = 0.25
"""Seconds without a byte that end a window."""
_FADE = 0.98


class _Direction:
    def __init__(self) -> None:
        self.best = 0.0
        self._began = 0.0
        self._last = float("-inf")
        self._moved = 0

    def moved(self, count: int, now: float) -> None:
        if now - self._last > _IDLE:
            self._began, self._moved = now, 0
        else:
            # What the first call of a window reports was moved before the window began.
            self._moved += count
        self._last = now
        if now - self._began >= _WINDOW:
            self.best = max(self._moved / (now - self._began), self.best * _FADE)
            self._began, self._moved = now, 0


class Throughput:
    """The measured bandwidth of a host, from what goes over all its links."""

    def __init__(self) -> None:
        self._sent = _Direction()
        self._received = _Direction()

    def sent(self, count: int, now: float) -> None:
        """``count`` bytes were taken by the network by ``now``."""
        self._sent.moved(count, now)

    def received(self, count: int, now: float) -> None:
        """``count`` bytes came by ``now``."""
        self._received.moved(count, now)

    @property
    def bandwidth(self) -> float:
        """Bytes per second in the weaker direction; 0 while too little was moved to tell.

        A power of two: differences within noise are not worth an uneven division of the work.
        """
        weaker = min(self._sent.best, self._received.best)
        return 2.0 ** round(math.log2(weaker)) if weaker > 0 else 0.0
