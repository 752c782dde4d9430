"""Resumption: what a link over a relay must keep so that it can go on over another. Pure.

A relay may be gone at any moment, and its circuits with it, while both ends are well. What was sent and not
acknowledged is kept, within a window, and sent again over whatever way is found to the same peer in time.
"""

from __future__ import annotations

from collections import deque

from moshgrid.averaging.part_memory import Payload

__all__ = ["GRACE_SECONDS", "Unacknowledged", "may_be_reached_again"]

GRACE_SECONDS = 5.0
"""From the loss of a circuit until the peer at its other end counts as lost."""
_MAX_BREAKS = 5
_WINDOW = 4 << 20
"""Bytes on their way over a relay: enough for 40 MB/s at a tenth of a second there and back."""


class Unacknowledged:
    """The frames of one link that its receiver has not confirmed, oldest first."""

    def __init__(self) -> None:
        self._frames: deque[tuple[bytes, Payload]] = deque()
        self._first = 0
        self._bytes = 0
        self._breaks = 0

    @property
    def is_full(self) -> bool:
        """True while nothing more should be sent."""
        return self._bytes > _WINDOW

    def add(self, header: bytes, payload: Payload) -> None:
        """A frame is about to be sent."""
        self._frames.append((header, payload))
        self._bytes += len(header) + len(payload)

    def acknowledge(self, count: int) -> None:
        """``count`` frames have come since the link began. Raises ValueError when so many were never sent."""
        if count > self._first + len(self._frames):
            raise ValueError(f"{count} frames are said to have come, of {self._first + len(self._frames)}")
        self._breaks = 0 if count > self._first else self._breaks
        while self._first < count:
            header, payload = self._frames.popleft()
            self._first += 1
            self._bytes -= len(header) + len(payload)

    def breaks_in_vain(self) -> bool:
        """To be asked at each break: True when streams broke again and again and nothing came by any of them.

        Then it is not the way that is bad but what is sent: the other end does not understand it.
        """
        self._breaks += 1
        return self._breaks > _MAX_BREAKS

    def missing_after(self, count: int) -> list[tuple[bytes, Payload]]:
        """What is to be sent again to who has ``count`` frames.

        Raises ValueError when that cannot be: it has more than were sent, or less than it said before.
        """
        if count < self._first:
            raise ValueError(f"{count} frames are said to have come, after {self._first} were")
        self.acknowledge(count)
        return list(self._frames)


def may_be_reached_again(was_relayed: bool, relay_connected: bool) -> bool:
    """Whether to go on trying a peer that was not reached at once after its link broke.

    Where our connection with the relay lives, it was the peer that went.
    """
    return was_relayed and not relay_connected
