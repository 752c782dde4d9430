"""How much a peer may send before we have read it: enforced, and grown to what the path holds."""

from __future__ import annotations

from moshgrid.p2p.yamux_frames import INITIAL_WINDOW

__all__ = ["MAX_WINDOW", "ReceiveWindow"]

MAX_WINDOW = 16 * 1024 * 1024
_MIN_RTT = 0.0005  # below this a round trip is this machine's scheduling and not the path
_MIN_EPOCH = 0.005
_LONGEST_WAIT = 0.25  # for credit to arrive; who sends nothing for longer has nothing to send


class ReceiveWindow:
    """One stream's receive window.

    Credit goes back in steps of half a window. When more than a quarter of a window was read per round
    trip, the window may be about to set the pace instead of the path or the reader: then it doubles. So it
    comes to rest between four and eight times the product of bandwidth and delay, of the delay without
    queues. On a busy computer credit takes much longer than that to have an effect. So it doubles, too,
    when for a quarter of the time everything was read that could come without the last credit given.
    """

    __slots__ = (
        "_epoch_began",
        "_epoch_read",
        "_idle_since",
        "_owed",
        "_unaided",
        "_waited",
        "credit",
        "size",
    )

    def __init__(self, now: float) -> None:
        self.size = INITIAL_WINDOW
        self.credit = INITIAL_WINDOW
        """Bytes that the peer may still send."""
        self._owed = 0
        self._epoch_began = now
        self._epoch_read = 0
        self._unaided = INITIAL_WINDOW
        """What the peer could still send without the credit it was given last; below 0 once it has that."""
        self._idle_since: float | None = None
        self._waited = 0.0

    def arrives(self, count: int, now: float) -> None:
        """``count`` bytes of credit were used."""
        self.credit -= count
        self._unaided -= count
        if self._idle_since is not None and count:
            if now - self._idle_since <= _LONGEST_WAIT:
                self._waited += now - self._idle_since
            self._idle_since = None

    def give_back(self, count: int, now: float, rtt: float | None, room: int, all_read: bool) -> int:
        """Credit to send after ``count`` bytes were read; 0 for not yet.

        ``rtt`` is the path's round trip where known, ``room`` how far the window may grow; ``all_read``:
        nothing more has come yet.
        """
        self._owed += count
        grant = 0
        if self._owed * 2 >= self.size:
            if self._unaided < 0:  # else no credit given before has had an effect yet
                self._unaided = self.credit
            grant = self._owed + self._grow(now, rtt, room)
            self.credit += grant
            self._owed = 0
        if all_read and self._unaided * 16 <= self.size and self._idle_since is None:
            self._idle_since = now
        return grant

    def _grow(self, now: float, rtt: float | None, room: int) -> int:
        self._epoch_read += self._owed
        elapsed = now - self._epoch_began
        if rtt is None or elapsed < max(rtt, _MIN_EPOCH):
            return 0
        per_round_trip = self._epoch_read * max(rtt, _MIN_RTT) / elapsed
        waited, self._waited = self._waited, 0.0
        self._epoch_began, self._epoch_read = now, 0
        if per_round_trip * 4 <= self.size and waited * 4 < elapsed:
            return 0
        growth = max(0, min(self.size, MAX_WINDOW - self.size, room))
        self.size += growth
        return growth
