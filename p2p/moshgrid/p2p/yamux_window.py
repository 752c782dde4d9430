"""How much a peer may send before we have read it: enforced, and grown to what the path holds."""

from __future__ import annotations

from moshgrid.p2p.yamux_frames import INITIAL_WINDOW

__all__ = ["MAX_WINDOW", "ReceiveWindow"]

MAX_WINDOW = 16 * 1024 * 1024
_MIN_RTT = 0.0005  # below this a round trip is this machine's scheduling and not the path
_MIN_EPOCH = 0.005


class ReceiveWindow:
    """One stream's receive window.

    Credit goes back in steps of half a window. When more than a quarter of a window was read per round
    trip, the window may be about to set the pace instead of the path or the reader: then it doubles. So it
    comes to rest between four and eight times the product of bandwidth and delay, of the delay without
    queues: a busy path takes longer, and a stream whose window is too small for that loses its fair share.
    """

    __slots__ = ("_epoch_began", "_epoch_read", "_owed", "credit", "size")

    def __init__(self, now: float) -> None:
        self.size = INITIAL_WINDOW
        self.credit = INITIAL_WINDOW
        """Bytes that the peer may still send."""
        self._owed = 0
        self._epoch_began = now
        self._epoch_read = 0

    def give_back(self, count: int, now: float, rtt: float | None, room: int) -> int:
        """Credit to send after ``count`` bytes were read; 0 for not yet.

        ``rtt`` is the path's round trip where known, ``room`` how far the window may grow.
        """
        self._owed += count
        if self._owed * 2 < self.size:
            return 0
        grant = self._owed + self._grow(now, rtt, room)
        self.credit += grant
        self._owed = 0
        return grant

    def _grow(self, now: float, rtt: float | None, room: int) -> int:
        self._epoch_read += self._owed
        elapsed = now - self._epoch_began
        if rtt is None or elapsed < max(rtt, _MIN_EPOCH):
            return 0
        per_round_trip = self._epoch_read * max(rtt, _MIN_RTT) / elapsed
        self._epoch_began, self._epoch_read = now, 0
        if per_round_trip * 4 <= self.size:
            return 0
        growth = max(0, min(self.size, MAX_WINDOW - self.size, room))
        self.size += growth
        return growth
