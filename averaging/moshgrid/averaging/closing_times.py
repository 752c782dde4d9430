"""Closing times: until when a search for a group waits, and for whom."""

from __future__ import annotations

from moshgrid.averaging.drafting import DRAFT_SECONDS

__all__ = ["ClosingTimes"]

_LEADER_LATE_SECONDS = 1.0
_WITHOUT_SEAT_SECONDS = 1.0


class ClosingTimes:
    """The times of one search. Absolute, in seconds of the machine's clock.

    A group of all that are declared may close after ``silence`` without news; while others may yet
    declare themselves, not before ``undeclared``. Who is declared but does not come is waited for until
    ``patience``, and nothing goes on beyond ``hard_limit``.
    """

    def __init__(
        self, now: float, silence: float, undeclared: float, patience: float, hard_limit: float
    ) -> None:
        self._silence = silence
        self._last_news = now
        self._undeclared_due = now + undeclared
        self._patience = patience
        self._latest = now + hard_limit
        self._had_no_seat = False
        self.patience_due: float | None = now + patience
        """Until when those who are declared are waited for; None when that time is over."""
        self.hard_due = now + hard_limit
        self.others_awaited = False
        """True while peers that took part lately have not declared themselves anywhere."""

    @property
    def quiet_at(self) -> float:
        """When a group of all that are declared may close."""
        quiet = self._last_news + self._silence
        return max(quiet, self._undeclared_due) if self.others_awaited else quiet

    def next_due(self, may_close: bool) -> float:
        """The next time at which something is to be decided."""
        due = [self.hard_due]
        if self.patience_due is not None:
            due.append(self.patience_due)
            if may_close:
                due.append(self.quiet_at)
        return min(due)

    def news(self, now: float) -> None:
        """Somebody came or was heard of."""
        self._last_news = now

    def followed(self, now: float) -> None:
        """A leader accepted: it has its own patience, and one that says nothing beyond it is gone."""
        self.hard_due = min(self._latest, now + self._patience + _LEADER_LATE_SECONDS)

    def drafted(self, now: float) -> None:
        """The leader asks who is direct to whom before it begins: it needs that time on top."""
        self.hard_due = min(self._latest, now + DRAFT_SECONDS + _LEADER_LATE_SECONDS)

    def left_without_seat(self, now: float) -> None:
        """Its leader began without this peer, which may look on with the others that were left; only once."""
        if not self._had_no_seat:
            self._had_no_seat = True
            self.patience_due = min(self._latest, max(self.patience_due or 0.0, now + _WITHOUT_SEAT_SECONDS))
            self.hard_due = self._latest

    def patience_ends(self, now: float) -> bool:
        """True once, when the patience is over."""
        if self.patience_due is None or now < self.patience_due:
            return False
        self.patience_due = None
        return True
