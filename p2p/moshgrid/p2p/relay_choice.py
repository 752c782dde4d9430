"""Which relays a peer holds reservations with, and when it asks whom: decisions only."""

from __future__ import annotations

from dataclasses import dataclass, replace

from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.machine import DeadlinePassed
from moshgrid.p2p.relay_events import (
    Advertise,
    Effect,
    Event,
    Found,
    Granted,
    Heard,
    LookFor,
    Lost,
    Refused,
    Release,
    Reserve,
    Silent,
    Wanted,
)

__all__ = ["WANTED", "RelayChoice"]

WANTED = 3
"""So many relays are held: when one dies the others go on."""
_MAX_CANDIDATES = 64
_RENEW_AT = 0.7
"""Of a reservation's life."""
_RENEW_PAUSE = 5.0
_PAUSES = (1.0, 2.0, 4.0, 8.0, 30.0, 120.0, 300.0)
"""After so many failures in a row."""
_LOST_PAUSE = 0.2
"""Before a relay whose connection was lost is asked again: it may be back at once, or gone."""
_LOOK_PAUSES = (1.0, 3.0, 10.0, 30.0)
_LONGEST_PAUSE = 600.0


@dataclass(frozen=True, slots=True)
class _Candidate:
    rank: float
    failures: int = 0
    not_before: float = 0.0


@dataclass(frozen=True, slots=True)
class _Held:
    renew_at: float
    expires_at: float
    addrs: tuple[str, ...]
    silent: bool = False


class RelayChoice:
    """Holds three, renews them in time, and replaces those that are gone.

    One that is silent is replaced too, but kept until its connection is lost: nothing that passes through
    it ends because it was busy for a while.
    """

    def __init__(self) -> None:
        self._wanted = False
        self._candidates: dict[PeerId, _Candidate] = {}
        self._held: dict[PeerId, _Held] = {}
        self._asking: set[PeerId] = set()
        self._looks = 0
        self._look_at = 0.0
        self._told: tuple[str, ...] = ()

    @property
    def held(self) -> tuple[PeerId, ...]:
        """The relays where a reservation is."""
        return tuple(self._held)

    @property
    def deadline(self) -> float | None:
        """The next renewal, expiry, try or search."""
        times = [each.expires_at for each in self._held.values()]
        times += [each.renew_at for relay, each in self._held.items() if relay not in self._asking]
        if self._lacking:
            times.append(self._look_at)
            times += [self._candidates[relay].not_before for relay in self._free()]
        return min(times, default=None)

    def handle(self, event: Event | DeadlinePassed, now: float) -> list[Effect]:
        """What is to be done after ``event``."""
        effects: list[Effect] = []
        if isinstance(event, Wanted):
            effects += self._want(event.wanted, now)
        elif isinstance(event, Found):
            self._found(event)
        elif isinstance(event, Granted):
            effects += self._granted(event, now)
        elif isinstance(event, Refused):
            self._refused(event, now)
        elif isinstance(event, Lost):
            effects += self._lost(event.relay, now)
        elif isinstance(event, Silent):
            effects += self._silent(event.relay, now)
        elif isinstance(event, Heard):
            effects += self._heard(event.relay)
        effects += self._expire(now)
        effects += self._ask(now)
        answering = self._answering
        told = tuple(
            addr
            for relay, held in self._held.items()
            if relay in answering or not answering
            for addr in held.addrs
        )
        if told != self._told:
            self._told = told
            effects.append(Advertise(told))
        return effects

    @property
    def _lacking(self) -> bool:
        return self._wanted and self._room > 0

    @property
    def _answering(self) -> set[PeerId]:
        return {relay for relay, held in self._held.items() if not held.silent}

    @property
    def _room(self) -> int:
        """So many more may be asked."""
        silent = self._held.keys() - self._answering
        return WANTED - len(self._answering | (self._asking - silent))

    def _free(self) -> list[PeerId]:
        return [relay for relay in self._candidates if relay not in self._held and relay not in self._asking]

    def _want(self, wanted: bool, now: float) -> list[Effect]:
        if wanted == self._wanted:
            return []
        self._wanted, self._looks, self._look_at = wanted, 0, now
        dropped: list[Effect] = [] if wanted else [Release(relay) for relay in self._held]
        if not wanted:
            self._held.clear()
        return dropped

    def _found(self, event: Found) -> None:
        if event.relay in self._candidates:
            return
        if len(self._candidates) >= _MAX_CANDIDATES:
            worst = max(self._free(), key=lambda relay: self._candidates[relay].failures, default=None)
            if worst is None:
                return
            del self._candidates[worst]
        self._candidates[event.relay] = _Candidate(event.rank)

    def _granted(self, event: Granted, now: float) -> list[Effect]:
        self._asking.discard(event.relay)
        known = self._candidates.get(event.relay, _Candidate(0.0))
        self._candidates[event.relay] = replace(known, failures=0, not_before=0.0)
        if not self._wanted:
            return [Release(event.relay)]
        self._looks = 0
        self._held[event.relay] = _Held(now + event.seconds * _RENEW_AT, now + event.seconds, event.addrs)
        return self._not_too_many(event.relay)

    def _refused(self, event: Refused, now: float) -> None:
        self._asking.discard(event.relay)
        if (held := self._held.get(event.relay)) is not None:
            self._held[event.relay] = replace(held, renew_at=now + _RENEW_PAUSE)
            return
        if (known := self._candidates.get(event.relay)) is not None:
            pause = _LONGEST_PAUSE if event.never else _PAUSES[min(known.failures, len(_PAUSES) - 1)]
            self._candidates[event.relay] = replace(
                known, failures=known.failures + 1, not_before=now + pause
            )

    def _lost(self, relay: PeerId, now: float) -> list[Effect]:
        if self._held.pop(relay, None) is None:
            return []
        known = self._candidates[relay]
        self._candidates[relay] = replace(known, failures=0, not_before=now + _LOST_PAUSE)
        self._look_at = min(self._look_at, now)
        return [Release(relay)]

    def _silent(self, relay: PeerId, now: float) -> list[Effect]:
        if (held := self._held.pop(relay, None)) is None:
            return []
        self._held[relay] = replace(held, silent=True)
        self._look_at = min(self._look_at, now)
        silent = [each for each, held in self._held.items() if held.silent]
        for each in silent[:-WANTED]:
            del self._held[each]
        return [Release(each) for each in silent[:-WANTED]]

    def _heard(self, relay: PeerId) -> list[Effect]:
        if (held := self._held.get(relay)) is None:
            return []
        self._held[relay] = replace(held, silent=False)
        return self._not_too_many(relay)

    def _not_too_many(self, last: PeerId) -> list[Effect]:
        """Another took its place meanwhile."""
        if len(self._answering) <= WANTED:
            return []
        del self._held[last]
        return [Release(last)]

    def _expire(self, now: float) -> list[Effect]:
        gone = [relay for relay, held in self._held.items() if held.expires_at <= now]
        for relay in gone:
            del self._held[relay]
        return [Release(relay) for relay in gone]

    def _ask(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for relay, held in self._held.items():
            if held.renew_at <= now and relay not in self._asking:
                effects.append(Reserve(relay))
        ready = [relay for relay in self._free() if self._candidates[relay].not_before <= now]
        ready.sort(key=lambda relay: (self._candidates[relay].failures, self._candidates[relay].rank))
        if self._wanted:
            effects += [Reserve(relay) for relay in ready[: max(0, self._room)]]
        self._asking |= {effect.relay for effect in effects if isinstance(effect, Reserve)}
        if self._lacking and self._look_at <= now:
            pause = _LOOK_PAUSES[min(self._looks, len(_LOOK_PAUSES) - 1)]
            self._looks, self._look_at = self._looks + 1, now + pause
            effects.append(LookFor())
        return effects
