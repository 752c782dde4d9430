"""Closing times: until when a search for a group waits, and for whom."""

from __future__ import annotations

__all__ = ["ClosingTimes"]

_OVERTAKEN_SECONDS = 0.5
_OVERTAKEN_SILENCES = 5
_LEADER_LATE_SECONDS = 1.0


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
        self._overtaken = max(_OVERTAKEN_SECONDS, _OVERTAKEN_SILENCES * silence)
        self._last_news = now
        self._undeclared_due = now + undeclared
        self._patience = patience
        self._latest = now + hard_limit
        self._patience_due: float | None = now + patience
        self._overtaken_at: float | None = None
        self.hard_due = now + hard_limit
        self.others_awaited = False
        """True while peers that took part lately have not declared themselves anywhere."""

    @property
    def patience_due(self) -> float | None:
        """Until when those who are declared are waited for; None when that time is over."""
        if self._patience_due is None or self.others_awaited or self._overtaken_at is None:
            return self._patience_due
        return min(self._patience_due, max(self._overtaken_at, self._last_news) + self._overtaken)

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

    def overtaken(self, now: float) -> None:
        """Another group sealed the round: who is declared and has not come by now hardly will.

        Who has not declared itself at all may just be late, and is given its time.
        """
        self._overtaken_at = now

    def patience_ends(self, now: float) -> bool:
        """True once, when the patience is over."""
        due = self.patience_due
        if due is None or now < due:
            return False
        self._patience_due = None
        return True
