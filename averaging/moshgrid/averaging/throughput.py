"""Throughput: how fast this host has been seen to move bytes, each way. Pure.

What a round moves is mostly limited by its slowest member, so what counts is the best half second, not
the mean; bursts shorter than that fit into buffers and say nothing. An estimate fades when it is not
reached again. Half a second counts only if the host was sending all the time: rounds of a small model that
follow each other tell how much there was to do, not how much could be done.
"""

from __future__ import annotations

import math

__all__ = ["Throughput"]

_WINDOW = 0.5
_SENDING_GAP = 0.05
_RECEIVING_GAP = 0.25
"""Seconds without a byte that end a window. What a receiver waits for may be on its way."""
_FADE = 0.98


class _Direction:
    def __init__(self, gap: float) -> None:
        self.best = 0.0
        self._gap = gap
        self._window = 0.0
        self._last = float("-inf")
        self._moved = 0

    def moved(self, count: int, began: float | None, now: float) -> None:
        """``count`` bytes by ``now``, since ``began`` if that is known."""
        if (now if began is None else began) - self._last > self._gap:
            # What was moved since nobody knows when was moved before the window.
            self._window, self._moved = (now, 0) if began is None else (began, count)
        else:
            self._moved += count
        self._last = now
        if now - self._window >= _WINDOW:
            self.best = max(self._moved / (now - self._window), self.best * _FADE)
            self._window, self._moved = now, 0


class Throughput:
    """The measured bandwidth of a host, from what goes over all its links."""

    def __init__(self) -> None:
        self._sent = _Direction(_SENDING_GAP)
        self._received = _Direction(_RECEIVING_GAP)

    def sent(self, count: int, began: float, now: float) -> None:
        """``count`` bytes, there to be sent from ``began`` on, were taken by the network by ``now``."""
        self._sent.moved(count, began, now)

    def received(self, count: int, now: float) -> None:
        """``count`` bytes came by ``now``."""
        self._received.moved(count, None, now)

    @property
    def bandwidth(self) -> float:
        """Bytes per second in the weaker direction; 0 while too little was sent to tell.

        A power of two: differences within noise are not worth an uneven division of the work.
        """
        sent, received = self._sent.best, self._received.best
        return 2.0 ** round(math.log2(min(sent, received or sent))) if sent > 0 else 0.0
