"""Disjoint paths: one lookup walked several times at once over peers that have nothing in common.

Rules (Baumgart & Mies 2007, §4.3): the seeds are dealt out to the paths; a peer is asked by the path
that comes first and its answer helps that path only, so one liar misleads one path. To the others a
peer already asked counts as one that knew nobody. The result is the nearest of all paths' results.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

from moshgrid.dht.diversity import Placing, diverse
from moshgrid.dht.keys import point_of_peer
from moshgrid.dht.lookup import Answered, Done, Effect, Event, Lookup
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.machine import DeadlinePassed

__all__ = ["PATHS", "DisjointLookup"]

PATHS = 4
_FAR = 12


def deal(near: Sequence[PeerId], met: Iterable[PeerId], rng: random.Random) -> list[PeerId]:
    """Seeds for ``PATHS`` paths, of which half begin with peers of ``met`` that are not ``near`` the target.

    All that are known near it may be of one mind, and name only each other.
    """
    near = list(dict.fromkeys(near))
    far = sorted(set(met) - set(near))
    count = min(len(near), len(far), _FAR) // 2 * 2
    if not count:
        return near
    far = rng.sample(far, count)
    return [peer for at in range(0, count, 2) for peer in (*near[at : at + 2], *far[at : at + 2])]


class DisjointLookup:
    """As ``Lookup``: ``start`` first, then ``handle`` until it returns Done."""

    def __init__(
        self,
        target: int,
        seeds: Iterable[PeerId],
        *,
        own: PeerId,
        need: int = 20,
        paths: int = PATHS,
        alpha: int = 3,
        max_asks: int = 60,
        distance_point: Callable[[PeerId], int] = point_of_peer,
        placing: Placing = lambda peer: None,
    ) -> None:
        dealt = list(seeds)
        self._need = need
        self._target = target
        self._point = distance_point
        self._placing = placing
        self._paths = [
            Lookup(
                target,
                dealt[number::paths],
                own=own,
                need=need,
                alpha=alpha,
                max_asks=max_asks,
                thorough=False,
                distance_point=distance_point,
                placing=placing,
            )
            for number in range(paths)
        ]
        self._owner: dict[PeerId, int] = {}
        self._done: dict[int, Done] = {}

    @property
    def deadline(self) -> float | None:
        """The first one of the paths that still go on."""
        return min((at for path in self._paths if (at := path.deadline) is not None), default=None)

    def known(self) -> Sequence[PeerId]:
        """Nobody: what one path knows must not reach another one's peers."""
        return ()

    def allow(self, slack: float) -> None:
        """As ``Lookup.allow``."""
        for path in self._paths:
            path.allow(slack)

    def start(self, now: float) -> Sequence[Effect]:
        """The first questions of every path."""
        effects: list[Effect] = []
        for number, path in enumerate(self._paths):
            effects += self._own(number, path.start(now), now)
        return self._end(effects)

    def handle(self, event: Event | DeadlinePassed, now: float) -> Sequence[Effect]:
        """Takes one event and returns what is to be done."""
        if len(self._done) == len(self._paths):
            return []
        effects: list[Effect] = []
        if isinstance(event, DeadlinePassed):
            for number, path in enumerate(self._paths):
                effects += self._own(number, path.handle(event, now), now)
        elif (owner := self._owner.get(event.peer)) is not None:
            effects += self._own(owner, self._paths[owner].handle(event, now), now)
        return self._end(effects)

    def _own(self, number: int, effects: Sequence[Effect], now: float) -> list[Effect]:
        """Lets through the questions to peers that no other path has asked."""
        through: list[Effect] = []
        waiting = list(effects)
        while waiting:
            effect = waiting.pop(0)
            if isinstance(effect, Done):
                self._done[number] = effect
            elif self._owner.setdefault(effect.peer, number) == number:
                through.append(effect)
            else:
                waiting += self._paths[number].handle(Answered(effect.peer, ()), now)
        return through

    def _end(self, effects: list[Effect]) -> Sequence[Effect]:
        if len(self._done) < len(self._paths):
            return effects
        found = [
            peer for n, done in self._done.items() for peer in done.closest if self._owner.get(peer) == n
        ]
        nearest = sorted(found, key=lambda peer: self._point(peer) ^ self._target)
        closest = diverse(((self._placing(peer), peer) for peer in nearest), self._need)
        return [*effects, Done(tuple(closest), all(done.complete for done in self._done.values()))]
