"""What every protocol machine looks like: events in, effects out, one deadline, nothing awaited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

__all__ = ["DeadlinePassed", "Machine"]

Event = TypeVar("Event", contravariant=True)
Effect = TypeVar("Effect", covariant=True)


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """The time in ``Machine.deadline`` has come."""


class Machine(Protocol[Event, Effect]):
    """A protocol's decisions as a pure function of events and time.

    Rules: no await, clock, randomness or I/O inside; after ``handle(DeadlinePassed(), now)`` with
    ``now >= deadline`` the deadline has moved or is None; times are absolute, in seconds, of one
    monotonic clock.
    """

    @property
    def deadline(self) -> float | None:
        """When the machine wants to be woken with ``DeadlinePassed``; None for never."""
        ...

    def handle(self, event: Event | DeadlinePassed, now: float) -> Sequence[Effect]:
        """Takes one event and returns what is to be done, in order."""
        ...
