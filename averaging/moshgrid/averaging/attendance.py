"""Attendance: which group keys a peer follows, those that it asked for in the last rounds. Pure.

Every grid plan has keys of its own, and storers tell one peer of so many keys only.
"""

from __future__ import annotations

__all__ = ["Attendance"]

_ROUNDS = 16
"""Longer than any grid has axes, so that keys that come back are not left."""
_MOST = 128


class Attendance:
    """The keys asked for, the last one last, and the round of each."""

    def __init__(self) -> None:
        self._asked: dict[str, int] = {}

    def ask(self, group_key: str, round_number: int) -> list[str]:
        """A key is followed from now on; returns those that are not any more."""
        self._asked.pop(group_key, None)
        self._asked[group_key] = round_number
        too_many = len(self._asked) - _MOST
        left = [
            key
            for place, (key, at) in enumerate(self._asked.items())
            if place < too_many or at < round_number - _ROUNDS
        ]
        for key in left:
            del self._asked[key]
        return left
