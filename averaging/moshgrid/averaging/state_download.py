"""Downloading a state: which chunk is asked of which donor. A machine: ``handle(event, now) -> effects``.

From a few donors at once, a few chunks from each, in an order of this peer's own, so that newcomers who
come together hold different chunks. A donor that is busy is left alone for a while and another takes its
place; one that is lost, or sent bytes that do not fit, is not asked again; what it owed is asked of others.
Near the end idle donors are asked for what others are slow to send.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.machine import DeadlinePassed

__all__ = ["Arrived", "Ask", "DonorFound", "DonorLost", "Download", "Downloaded", "GaveUp", "WasBusy"]

DONORS_AT_ONCE = 4
CHUNKS_PER_DONOR = 3
_PATIENCE = 0.5
"""Seconds, at least, until an idle donor is asked for what another has not sent."""
_WITHOUT_NEWS = 60.0
"""Seconds without a chunk after which the download is given up."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A chunk came from a donor, and its bytes are what the description names."""

    donor: PeerId
    part: int


@dataclass(frozen=True, slots=True)
class WasBusy:
    """A donor serves as many others as it will; it can be asked again after ``seconds``."""

    donor: PeerId
    seconds: float


@dataclass(frozen=True, slots=True)
class DonorLost:
    """A donor is gone, has the state no more, or sent wrong bytes: it is not asked again."""

    donor: PeerId


@dataclass(frozen=True, slots=True)
class DonorFound:
    """One more peer has the state."""

    donor: PeerId


Event = Arrived | WasBusy | DonorLost | DonorFound | DeadlinePassed


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask a donor for a chunk."""

    donor: PeerId
    part: int


@dataclass(frozen=True, slots=True)
class Downloaded:
    """Every chunk is here."""


@dataclass(frozen=True, slots=True)
class GaveUp:
    """The state cannot be had; ``reason`` says why."""

    reason: str


Effect = Ask | Downloaded | GaveUp


class Download:
    """``wanted``: the missing chunks, in the order to ask for them. Call ``start``, then ``handle``."""

    def __init__(self, wanted: Sequence[int], donors: Sequence[PeerId], now: float) -> None:
        self._wanted = deque(wanted)
        self._missing = set(wanted)
        self._reserve = deque(dict.fromkeys(donors))
        self._resting: dict[PeerId, float] = {}
        self._asked: dict[PeerId, dict[int, float]] = {}
        """The donors that are asked now, for what, and since when; the oldest question first."""
        self._usual = _PATIENCE
        """Seconds that a chunk takes."""
        self._lost: set[PeerId] = set()
        self._heard_at = now
        self.over = False

    @property
    def deadline(self) -> float | None:
        """When to hand in ``DeadlinePassed``."""
        if self.over:
            return None
        due = [self._heard_at + _WITHOUT_NEWS, *self._resting.values()]
        if not self._wanted and any(not parts for parts in self._asked.values()):
            due += [at + self._patience for at in self._single().values()]
        return min(due)

    @property
    def _patience(self) -> float:
        return max(_PATIENCE, 3 * self._usual)

    def _single(self) -> dict[int, float]:
        """What is asked of one donor only, and since when."""
        asked = [item for parts in self._asked.values() for item in parts.items() if item[0] in self._missing]
        often = Counter(part for part, _ in asked)
        return {part: at for part, at in asked if often[part] == 1}

    def start(self, now: float) -> list[Effect]:
        """Asks for the first chunks."""
        return self._go_on(now)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Takes one event and returns what is to be done."""
        if self.over:
            return []
        match event:
            case Arrived(donor, part):
                self._heard_at = now
                self._missing.discard(part)
                if (asked_at := self._asked.get(donor, {}).pop(part, None)) is not None:
                    self._usual += (now - asked_at - self._usual) / 8
            case WasBusy(donor, seconds):
                if donor in self._asked:
                    self._resting[donor] = now + min(max(seconds, 0.05), 10.0)
                    for owed in self._asked.pop(donor):
                        self._give_back(owed)
            case DonorLost(donor):
                self._lose(donor)
            case DonorFound(donor):
                known = donor in self._asked or donor in self._resting or donor in self._reserve
                if not known and donor not in self._lost:
                    self._reserve.append(donor)
            case DeadlinePassed():
                if now >= self._heard_at + _WITHOUT_NEWS:
                    return self._give_up(f"no donor sent anything for {_WITHOUT_NEWS:g} s")
        return self._go_on(now)

    def _give_back(self, part: int) -> None:
        elsewhere = any(part in parts for parts in self._asked.values())
        if part in self._missing and not elsewhere and part not in self._wanted:
            self._wanted.appendleft(part)

    def _lose(self, donor: PeerId) -> None:
        self._lost.add(donor)
        self._resting.pop(donor, None)
        if donor in self._reserve:
            self._reserve.remove(donor)
        for part in self._asked.pop(donor, {}):
            self._give_back(part)

    def _give_up(self, reason: str) -> list[Effect]:
        self.over = True
        return [GaveUp(reason)]

    def _go_on(self, now: float) -> list[Effect]:
        if not self._missing:
            self.over = True
            return [Downloaded()]
        for donor in [donor for donor, until in self._resting.items() if until <= now]:
            del self._resting[donor]
            self._reserve.append(donor)
        while self._reserve and len(self._asked) < DONORS_AT_ONCE:
            self._asked[self._reserve.popleft()] = {}
        if not self._asked and not self._resting:
            return self._give_up("nobody is left who has it")
        effects: list[Effect] = []
        for _ in range(CHUNKS_PER_DONOR):  # one each in turn, so that a few chunks are not all of one donor
            for donor, parts in self._asked.items():
                if len(parts) < CHUNKS_PER_DONOR and (part := self._next_for(donor, now)) is not None:
                    parts[part] = now
                    effects.append(Ask(donor, part))
        return effects

    def _next_for(self, donor: PeerId, now: float) -> int | None:
        while self._wanted:
            part = self._wanted.popleft()
            if part in self._missing:
                return part
        if self._asked[donor]:
            return None
        # Idle, and everything has been asked for: what has waited too long elsewhere, but once more only.
        single = self._single()
        oldest = min(single, key=lambda each: single[each], default=None)
        return oldest if oldest is not None and now >= single[oldest] + self._patience else None
