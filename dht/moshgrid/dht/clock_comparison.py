"""Comparing clocks: records live by the wall clock, so a peer whose clock is wrong must be told.

The clock is never corrected from what peers say: they are asked only whether ours can be right.
"""

from __future__ import annotations

import statistics

__all__ = ["CLOCK_PEERS", "ClockComparison"]

CLOCK_PEERS = 5
_WARN_MS = 3_000
_REFUSE_MS = 30_000
_KEPT = 32


class ClockComparison:
    """Collects how far each peer's clock is ahead of ours. Times are milliseconds."""

    def __init__(self) -> None:
        self._offsets: dict[str, float] = {}

    def heard(self, peer: str, their_ms: int, sent_ms: int, received_ms: int) -> None:
        """``peer`` showed ``their_ms`` some time between the two."""
        self._offsets.pop(peer, None)
        self._offsets[peer] = their_ms - (sent_ms + received_ms) / 2
        if len(self._offsets) > _KEPT:
            del self._offsets[next(iter(self._offsets))]

    @property
    def offset_ms(self) -> float | None:
        """How far the peers' clocks are ahead, in the median; None while fewer than five were heard."""
        if len(self._offsets) < CLOCK_PEERS:
            return None
        return statistics.median(self._offsets.values())

    @property
    def heard_of(self) -> tuple[float, int]:
        """The same in the median of however many were heard, and how many: a hint while they are few."""
        return statistics.median(self._offsets.values() or [0.0]), len(self._offsets)

    @property
    def is_off(self) -> bool:
        """True when the user should be told."""
        offset = self.offset_ms
        return offset is not None and abs(offset) > _WARN_MS

    @property
    def is_useless(self) -> bool:
        """True when nothing that is signed by this clock makes sense to others."""
        offset = self.offset_ms
        return offset is not None and abs(offset) > _REFUSE_MS

    def __str__(self) -> str:
        offset = self.offset_ms or 0.0
        side = "behind" if offset > 0 else "ahead of"
        return (
            f"this computer's clock is {abs(offset) / 1000:.1f} s {side} those of {len(self._offsets)} peers"
        )
