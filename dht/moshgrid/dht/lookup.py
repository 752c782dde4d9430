"""Lookup: which live peers are nearest to a point, found by asking ever nearer ones.

Rules (Maymounkov & Mazières 2002, §2.3): at most ``alpha`` questions wait at once; the next peer asked
is always the nearest one not asked yet; it ends when the ``need`` nearest peers that do not fail have
answered. A peer that is silent for ``patience`` seconds frees its place and no longer holds up the
end, but a late answer still counts: the peer is alive, only slow.

An answer holds few names, and after a mass failure most of them are of the dead: peers that live but
lie behind those would never be heard of. So when peers nearer than the result failed, the nearest
``alpha`` of the result are asked once more, for names other than those.

Of peers that lie about as near, few may come from one address block (see ``diversity``).
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice

from moshgrid.dht.diversity import Place, Placing, diverse
from moshgrid.dht.keys import point_of_peer
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.machine import DeadlinePassed

__all__ = ["MAX_SKIP", "Answered", "Ask", "Done", "Effect", "Event", "Failed", "Lookup"]


@dataclass(frozen=True, slots=True)
class Answered:
    """``peer`` answered and named ``closer`` peers."""

    peer: PeerId
    closer: Sequence[PeerId]


@dataclass(frozen=True, slots=True)
class Failed:
    """``peer`` could not be reached, or broke the protocol."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask ``peer`` for what it knows near the point, other than ``skip``."""

    peer: PeerId
    skip: tuple[PeerId, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """The lookup is over. ``closest`` have answered, nearest first; ``complete`` is False when time
    or the bound on questions ended it."""

    closest: tuple[PeerId, ...]
    complete: bool


MAX_SKIP = 40
_SECOND_ROUNDS = 2

Event = Answered | Failed
Effect = Ask | Done


class _State(Enum):
    HEARD = 0
    ASKED = 1
    SLOW = 2
    ANSWERED = 3
    FAILED = 4


_HOPELESS = (_State.FAILED, _State.SLOW)


class Lookup:
    """One lookup. ``start`` first, then ``handle`` until it returns Done."""

    def __init__(
        self,
        target: int,
        seeds: Iterable[PeerId],
        *,
        own: PeerId,
        need: int = 20,
        alpha: int = 5,
        patience: float = 1.0,
        timeout: float = 10.0,
        max_asks: int = 200,
        thorough: bool = True,
        distance_point: Callable[[PeerId], int] = point_of_peer,
        placing: Placing = lambda peer: None,
    ) -> None:
        self._target = target
        self._own = own
        self._need = need
        self._alpha = alpha
        self._patience = patience
        self._timeout = timeout
        self._asks_left = max_asks
        self._second_rounds = _SECOND_ROUNDS if thorough else 0
        self._skipped: frozenset[PeerId] = frozenset()
        self._again: set[PeerId] = set()
        self._point = distance_point
        self._placing = placing
        self._places: dict[PeerId, Place] = {}
        self._states: dict[PeerId, _State] = {}
        self._order: list[tuple[int, PeerId]] = []
        self._waiting: dict[PeerId, float] = {}
        self._hopeful_now: tuple[PeerId, ...] | None = None
        """Remembered until something changes: each question names them."""
        self._ends_at: float | None = None
        self._over = False
        self._hear(seeds)

    @property
    def need(self) -> int:
        """How many are looked for."""
        return self._need

    def known(self) -> tuple[PeerId, ...]:
        """The nearest ``need`` peers that were heard of, less those that failed or are slow; the same object
        as before when nothing changed."""
        return self._hopeful()

    @property
    def deadline(self) -> float | None:
        """When the next silent peer turns slow, or the lookup ends."""
        if self._over or self._ends_at is None:
            return None
        first = next(
            iter(self._waiting.values()), self._ends_at
        )  # whom it asked first it waits for no longer
        return min(self._ends_at, first)

    def allow(self, slack: float) -> None:
        """More patience, in seconds, before ``start``: this computer is slow itself."""
        self._patience += slack
        self._timeout += slack

    def widen(self) -> None:
        """From now on all that are needed are asked at once."""
        self._alpha = self._need

    def start(self, now: float) -> Sequence[Effect]:
        """The first questions."""
        self._ends_at = now + self._timeout
        return self._advance(now)

    def handle(self, event: Event | DeadlinePassed, now: float) -> Sequence[Effect]:
        """Takes one event and returns what is to be done."""
        if self._over:
            return []
        match event:
            case Answered(peer, closer):
                if self._states.get(peer) in (_State.ASKED, _State.SLOW):
                    self._settle(peer, _State.ANSWERED)
                    self._locate(peer)  # by now it is known at which of its addresses it is
                    self._hear(closer)
            case Failed(peer):
                if self._states.get(peer) in (_State.ASKED, _State.SLOW):
                    self._settle(peer, _State.FAILED)
            case DeadlinePassed():
                for peer in [peer for peer, until in self._waiting.items() if until <= now]:
                    self._settle(peer, _State.ANSWERED if peer in self._again else _State.SLOW)
        return self._advance(now)

    def _hear(self, peers: Iterable[PeerId]) -> None:
        for peer in peers:
            if peer == self._own or peer in self._states:
                continue
            try:
                distance = self._point(peer) ^ self._target
            except ValueError:
                continue  # not a peer id: whoever named it wasted one place of its answer
            self._states[peer] = _State.HEARD
            insort(self._order, (distance, peer))
            self._hopeful_now = None
            self._locate(peer)

    def _locate(self, peer: PeerId) -> None:
        place = self._placing(peer)
        if place == self._places.get(peer):
            return
        self._hopeful_now = None
        if place is not None:
            self._places[peer] = place
        else:
            del self._places[peer]

    def _settle(self, peer: PeerId, state: _State) -> None:
        if self._states[peer] in _HOPELESS or state in _HOPELESS:
            self._hopeful_now = None
        self._states[peer] = state
        self._waiting.pop(peer, None)

    def _hopeful(self) -> tuple[PeerId, ...]:
        """The nearest ``need`` peers that neither failed nor are slow, within the caps."""
        if self._hopeful_now is None:
            hopeful = (peer for _, peer in self._order if self._states[peer] not in _HOPELESS)
            self._hopeful_now = tuple(self._nearest(hopeful))
        return self._hopeful_now

    def _nearest(self, peers: Iterator[PeerId]) -> Iterable[PeerId]:
        if not self._places:
            return islice(peers, self._need)
        return diverse(((self._places.get(peer), peer) for peer in peers), self._need)

    def _advance(self, now: float) -> Sequence[Effect]:
        assert self._ends_at is not None, "start() comes first"
        if now >= self._ends_at:
            return [self._end(complete=False)]
        effects: list[Effect] = []
        open_questions = False
        for peer in self._hopeful():
            if self._states[peer] is _State.HEARD:
                open_questions = True
                if len(self._waiting) >= self._alpha or not self._asks_left:
                    break
                effects.append(self._ask(peer, now))
        if not self._waiting and not open_questions:
            effects += self._ask_again(now)
        if not self._waiting and (not open_questions or not self._asks_left):
            effects.append(self._end(complete=not open_questions))
        return effects

    def _ask(self, peer: PeerId, now: float, skip: tuple[PeerId, ...] = ()) -> Ask:
        self._states[peer] = _State.ASKED
        self._waiting[peer] = now + self._patience
        self._asks_left -= 1
        return Ask(peer, skip)

    def _ask_again(self, now: float) -> Sequence[Effect]:
        """Questions behind those that failed, if there are any new ones of these."""
        found = self._hopeful()
        if not found or self._second_rounds == 0:
            return []
        reach = self._point(found[-1]) ^ self._target if len(found) == self._need else math.inf
        failed = [peer for at, peer in self._order if at < reach and self._states[peer] in _HOPELESS]
        if self._skipped.issuperset(failed):
            return []
        self._second_rounds -= 1
        self._skipped = frozenset(failed)
        again = found[: min(self._alpha, self._asks_left)]
        self._again.update(again)
        return [self._ask(peer, now, tuple(failed[:MAX_SKIP])) for peer in again]

    def _end(self, complete: bool) -> Done:
        self._over = True
        answered = (peer for _, peer in self._order if self._states[peer] is _State.ANSWERED)
        return Done(tuple(self._nearest(answered)), complete)
