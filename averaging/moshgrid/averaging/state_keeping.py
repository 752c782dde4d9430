"""What a donor keeps for newcomers, for how long, and how many of them it serves at once. Pure.

A state that somebody is downloading is kept until that is done, however far the run goes on meanwhile, and
with it the averages sealed since: who has it then takes those, and is where the run is.
"""

from __future__ import annotations

from moshgrid.averaging.state import Description, KeptState
from moshgrid.p2p.identity import PeerId

__all__ = ["MAX_ROUNDS", "StateKeeping", "Uploads"]

LEASE_SECONDS = 30.0
_MAX_LEASED = 2
MAX_ROUNDS = 4


class StateKeeping:
    """The states of one run at one peer."""

    def __init__(self) -> None:
        self._rounds: list[KeptState] = []
        self._leased: dict[bytes, tuple[KeptState, float]] = {}

    @property
    def last_sealed(self) -> KeptState | None:
        """The newest average."""
        return self._rounds[-1] if self._rounds else None

    def sealed(self, state: KeptState, now: float, followed: bool = False) -> None:
        """A round was sealed. Its average replaces those before it, unless the run is ``followed``."""
        self._expire(now)
        self._rounds = [*(self._rounds[1 - MAX_ROUNDS :] if followed else ()), state]

    def rounds_after(self, number: int) -> tuple[Description, ...]:
        """The averages of the rounds after ``number``, in their order."""
        found = [each.description for each in self._rounds if each.description.round > number]
        return tuple(each for each in found if isinstance(each, Description))

    def lease(self, state: KeptState, now: float, seconds: float = LEASE_SECONDS) -> None:
        """Somebody downloads ``state``: it is kept for a while after the last time that this is said."""
        _, until = self._leased.pop(state.description.id, (state, now))
        self._leased[state.description.id] = (state, max(until, now + seconds))
        while len(self._leased) > _MAX_LEASED:
            del self._leased[next(iter(self._leased))]

    def find(self, state_id: bytes, now: float) -> KeptState | None:
        """The kept state of that id."""
        self._expire(now)
        if state_id in self._leased:
            return self._leased[state_id][0]
        return next((kept for kept in self._rounds if kept.description.id == state_id), None)

    def _expire(self, now: float) -> None:
        self._leased = {key: kept for key, kept in self._leased.items() if kept[1] > now}


class Uploads:
    """Who is being served: at most ``most`` peers at once, the others wait for one of them to be done.

    Few at a time, so that those are soon done and can serve the others.
    """

    def __init__(self, most: int, idle_seconds: float = 1.0) -> None:
        self._most = most
        self._idle = idle_seconds
        self._served: dict[PeerId, float] = {}

    def admit(self, peer: PeerId, now: float) -> float:
        """0 when ``peer`` is served now, else the seconds after which it may ask again."""
        self._served = {other: until for other, until in self._served.items() if until > now}
        if peer not in self._served and len(self._served) >= self._most:
            return max(0.1, min(self._served.values()) - now)
        self._served[peer] = now + self._idle
        return 0.0

    def done(self, peer: PeerId) -> None:
        """``peer`` needs nothing more."""
        self._served.pop(peer, None)
