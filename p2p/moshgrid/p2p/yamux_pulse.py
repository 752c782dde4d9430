"""Keep-alive and round trips: pings out, and what silence means."""

from __future__ import annotations

from collections import deque

__all__ = ["DOUBT_SECONDS", "PING_SECONDS", "SILENCE_SECONDS", "UNANSWERED_SECONDS", "Pulse"]

PING_SECONDS = 5.0
"""Without a word from the peer. Whoever was heard is not asked, but for every third time: the round trip may
have changed."""
SILENCE_SECONDS = 9.0
"""Silence after a ping that ends a connection; with ``PING_SECONDS`` less than 15."""
DOUBT_SECONDS = 5.0
"""The same once there is reason to think that the way to the peer is gone."""
UNANSWERED_SECONDS = 4.0
"""Silence after a stream was opened that is such a reason; both together are no less than what ends a
connection anyway, as a busy peer is no dead one, and less than a new stream is waited for."""
_FIRST_SECONDS = 0.01
_SAMPLES = 8
_MOST_SPARED = 2
_OVERSLEPT = 1.0


class Pulse:
    """One ping at a time; a peer that sends nothing at all for so long after one is gone.

    The first pings follow each other closely: a round trip in a connection's first moments is long. Of two
    ends that have nothing else to say one asks, and the other hears it.
    """

    def __init__(self, now: float) -> None:
        self._heard_at = now
        self._ping_at = now
        self._sent_at: float | None = None
        self._value = 0
        self._pause = _FIRST_SECONDS
        self._spared = 0
        """How often in a row a ping was not needed."""
        self._doubted_at: float | None = None
        self._asked_at: float | None = None
        self._samples: deque[float] = deque(maxlen=_SAMPLES)
        self.rtt: float | None = None
        """The shortest of the last round trips: the path's own, without queues."""

    @property
    def deadline(self) -> float:
        """When ``due_ping`` or ``is_lost`` may have an answer."""
        due = self._ping_at if self._sent_at is None else self._lost_at(self._sent_at)
        if self._asked_at is not None and self._doubted_at is None:
            due = min(due, self._asked_at + UNANSWERED_SECONDS)
        return due

    def _lost_at(self, sent_at: float) -> float:
        if self._doubted_at is not None:
            return max(sent_at, self._heard_at, self._doubted_at) + DOUBT_SECONDS
        return max(sent_at, self._heard_at) + SILENCE_SECONDS

    def heard(self, now: float) -> None:
        """Anything came from the peer."""
        self._heard_at = now
        self._doubted_at = self._asked_at = None

    def asked(self, now: float) -> None:
        """The peer has something to answer."""
        if self._asked_at is None:
            self._asked_at = now

    def doubt(self, now: float) -> None:
        """The way to the peer may be gone: ask at once, and wait for a shorter time."""
        self._doubted_at = now
        self._ping_at = now

    def is_lost(self, now: float) -> bool:
        """True when the peer has been silent for too long."""
        if self._sent_at is None or now < self._lost_at(self._sent_at):
            return False
        if now > self._lost_at(self._sent_at) + _OVERSLEPT:
            # This process itself has slept: what the peer sent meanwhile waits to be read.
            self._heard_at = now
            return False
        return True

    def due_ping(self, now: float) -> int | None:
        """The value of a ping to send now, if one is due."""
        if (
            self._asked_at is not None
            and self._doubted_at is None
            and now >= self._asked_at + UNANSWERED_SECONDS
        ):
            self.doubt(now)
        if self._sent_at is not None or now < self._ping_at:
            return None
        was_heard = self._heard_at + PING_SECONDS > now and self._doubted_at is None
        if was_heard and self._pause >= PING_SECONDS and self._spared < _MOST_SPARED:
            self._spared += 1
            self._ping_at = self._heard_at + PING_SECONDS
            return None
        self._spared = 0
        self._sent_at = now
        self._value = (self._value + 1) % 2**32
        return self._value

    def pong(self, value: int, now: float) -> None:
        """An answer came; one to nothing that was asked is ignored."""
        if self._sent_at is None or value != self._value:
            return
        self._samples.append(now - self._sent_at)
        self.rtt = min(self._samples)
        self._ping_at = now + min(self._pause, PING_SECONDS)
        self._pause = min(self._pause * 4, PING_SECONDS)
        self._sent_at = None
