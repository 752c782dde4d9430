"""Who broke the rules waits before the next try, longer each time: counting only."""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["PenaltyBox"]

_MAX_NAMES = 8192
_QUIET = 8.0


class PenaltyBox:
    """Offenders by name, at most 8,192; the one whose last offence is longest ago is forgotten first.

    The first ``free`` offences cost nothing, the next one ``first_seconds``, each further one twice as much
    as the one before, up to ``longest_seconds``. Eight times the longest wait without an offence, and all
    is forgotten. To knock in vain is no offence.
    """

    def __init__(self, free: int, first_seconds: float, longest_seconds: float) -> None:
        self._free = free
        self._first = first_seconds
        self._longest = longest_seconds
        self._offences: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """How many, and when the last one was."""

    def __len__(self) -> int:
        return len(self._offences)

    def offended(self, name: str, now: float) -> None:
        """``name`` broke the rules."""
        count, at = self._offences.pop(name, (0, now))
        if now - at > _QUIET * self._longest:
            count = 0
        self._offences[name] = count + 1, now
        if len(self._offences) > _MAX_NAMES:
            self._offences.popitem(last=False)

    def holds(self, name: str, now: float) -> bool:
        """True while ``name`` is to be refused."""
        if name not in self._offences:
            return False
        count, at = self._offences[name]
        penalties = count - self._free
        if penalties <= 0:
            return False
        # The exponent is bounded first: a float overflows after a thousand doublings.
        return now < at + min(self._first * 2.0 ** min(penalties - 1, 64), self._longest)
