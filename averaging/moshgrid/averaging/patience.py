"""Patience: how long a group waits for members that are declared but have not come.

Median + 5 × 1.4826 × MAD of the last arrival offsets, at least 1.1 × the median, within bounds; a fixed
first value until there are samples. And silence: how long there must be no news before a group of all
that are declared closes.
"""

from __future__ import annotations

from collections import deque
from statistics import median

from moshgrid.averaging.topology import LOBBY

__all__ = ["Patience", "silence_after"]

_FIRST = 3.0
_LOBBY_SECONDS = 1.0
_LEAST = 2.0
_MOST = 15.0
_SAMPLES = 256
_ENOUGH = 8
_LEAST_SILENCE = 0.1
_MOST_SILENCE = 1.0


class Patience:
    """Learns from how long earlier groups took to come together."""

    def __init__(self) -> None:
        self._offsets: deque[float] = deque(maxlen=_SAMPLES)

    def observed(self, seconds: float, is_full: bool) -> None:
        """A group began ``seconds`` after this peer began to look for it.

        One that began without being full after all patience says nothing of how late members come.
        """
        if is_full or seconds < self.seconds:
            self._offsets.append(seconds)

    def at(self, group_key: str) -> float:
        """How long to wait there now: who comes to the lobby has waited already, as have the others there."""
        return _LOBBY_SECONDS if group_key == LOBBY else self.seconds

    @property
    def seconds(self) -> float:
        """How long to wait now."""
        if len(self._offsets) < _ENOUGH:
            return _FIRST
        middle = median(self._offsets)
        spread = median(abs(offset - middle) for offset in self._offsets)
        return min(_MOST, max(_LEAST, 1.1 * middle, middle + 5 * 1.4826 * spread))


def silence_after(declare_to_watch: float | None) -> float:
    """Seconds without news after which nobody more is on the way: 1.5 × what a declaration takes."""
    return min(_MOST_SILENCE, max(_LEAST_SILENCE, 1.5 * (declare_to_watch or 0.0)))
