"""Drives one search for a group: feeds its machine, performs what it asks, returns how it ended. Awaits."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from moshgrid.averaging.manifest import SignedManifest
from moshgrid.averaging.match_events import (
    Formed,
    MatchEffect,
    MatchEvent,
    NoGroup,
    OthersAwaited,
    Overtaken,
    SeekerGone,
    SeekerSeen,
    Tell,
)
from moshgrid.averaging.matchmaking import Matchmaking
from moshgrid.averaging.messages import Leave, MatchMessage
from moshgrid.p2p.clock import Clock
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.machine import DeadlinePassed

__all__ = ["MatchDriver"]


class MatchDriver:
    """One search under one group key for one round."""

    def __init__(
        self,
        machine: Matchmaking,
        group_key: str,
        round_number: int,
        clock: Clock,
        tell: Callable[[PeerId, MatchMessage], None],
    ) -> None:
        self.group_key = group_key
        self.round = round_number
        self._machine = machine
        self._clock = clock
        self._tell = tell
        self._seekers: set[PeerId] = set()
        self._others_awaited = False
        self._moved = trio.Event()
        self._outcome: Formed | NoGroup | SignedManifest | None = None

    def would_follow(self, leader: PeerId) -> bool:
        """True when a manifest of ``leader`` is to be taken."""
        return self._machine.would_follow(leader)

    @property
    def leader(self) -> PeerId | None:
        """Whom this peer follows."""
        return self._machine.leader

    @property
    def is_drafted(self) -> bool:
        """True while the leader may yet name another one to begin."""
        return self._machine.is_drafted

    def seekers_are(self, seekers: Iterable[PeerId]) -> None:
        """Who is declared under the key for the round now."""
        now = set(seekers)
        for peer in sorted(now - self._seekers):
            self.feed(SeekerSeen(peer))
        for peer in sorted(self._seekers - now):
            self.feed(SeekerGone(peer))
        self._seekers = now

    def feed(self, event: MatchEvent) -> None:
        """Hands an event to the machine; also after the end, so that late askers get an answer."""
        self._perform(self._machine.handle(event, self._clock.now()))
        self._moved.set()

    def others_are_awaited(self, any_left: bool) -> None:
        """Whether somebody who took part lately has not declared itself for this round yet."""
        if any_left != self._others_awaited:
            self._others_awaited = any_left
            self.feed(OthersAwaited(any_left))

    def overtaken(self) -> None:
        """The round was sealed by another group."""
        self.feed(Overtaken())

    def began(self, signed: SignedManifest) -> None:
        """The leader's manifest came."""
        self._perform(self._machine.began(signed.peers))
        self._outcome = self._outcome or signed
        self._moved.set()

    def follow(self, leader: PeerId) -> None:
        """After a draft of this peer's own: ``leader`` begins the group; ``run`` again."""
        self._outcome = None
        self._machine.follow(leader, self._clock.now())

    async def run(self) -> Formed | NoGroup | SignedManifest:
        """Waits for the end: to lead, to have been led, or neither."""
        try:
            while self._outcome is None:
                self._moved = trio.Event()
                deadline = self._machine.deadline
                with trio.move_on_at(deadline if deadline is not None else float("inf")):
                    await self._moved.wait()
                    continue
                self._perform(self._machine.handle(DeadlinePassed(), self._clock.now()))
        finally:
            for peer in self._machine.seekers.asked_in_vain:  # coming later, it would count this one in
                self._tell(peer, Leave(self.group_key, self.round))
        return self._outcome

    def _perform(self, effects: Iterable[MatchEffect]) -> None:
        for effect in effects:
            match effect:
                case Tell(peer, message):
                    self._tell(peer, message)
                case Formed() | NoGroup():
                    self._outcome = effect
