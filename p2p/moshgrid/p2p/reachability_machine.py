"""Whether others can reach this peer, decided from what they see of it and from their calls: never guessed.

*public*: at least two strangers, in address groups that this peer never contacted, called it and brought the
nonce. *punchable*: its router shows all the world the same place, so a hole can be punched there. *private*:
the router shows everybody another one; others come through relays, or punch if their own router lets all in.
*unknown*: too few have said anything yet. Only *public* needs a proof; the other three are safe to assume.
"""

from __future__ import annotations

from collections.abc import Sequence

from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.ip_ranges import group_of
from moshgrid.p2p.machine import DeadlinePassed
from moshgrid.p2p.observed_addrs import ObservedAddrs, Place
from moshgrid.p2p.reachability import (
    Announce,
    Answered,
    AskForCalls,
    Event,
    ListeningOn,
    Mapped,
    Observed,
    PeerCame,
    PeerLeft,
    Proven,
    Reachability,
)

__all__ = ["ReachabilityMachine"]

SETTLING_SECONDS = 3.0
"""By then something is said, whatever is known."""
_PROOFS = 2
_REFUTING = 2
_INTRODUCERS = 64
_AGAIN = (3.0, 15.0, 60.0, 300.0)
_AGAIN_WHEN_PUBLIC = 1200.0


class ReachabilityMachine:
    """Collects, asks, and says once per change what holds; for one address family."""

    def __init__(self, now: float) -> None:
        self.observed = ObservedAddrs()
        self._began = now
        self._port: int | None = None
        self._own: tuple[str, ...] = ()
        self._listening: ListeningOn | None = None
        self._mapped: Place | None = None
        self._proofs: dict[Place, set[str]] = {}
        self._missed = 0
        self._tried = 0
        self._barred = False
        """Strangers called since we are here, and none has come through yet."""
        self._introducers: dict[PeerId, PeerCame] = {}
        self._asked: set[PeerId] = set()
        self._pending = 0
        self._rounds = 0
        self._next_round: float | None = None
        self._settled = False
        self._said: Reachability | None = None
        self.deadline: float | None = now + SETTLING_SECONDS

    @property
    def listening_port(self) -> int | None:
        """What others could call."""
        return self._port

    @property
    def now_known(self) -> Reachability:
        """What holds, said or not."""
        return self._judge()

    def handle(self, event: Event | DeadlinePassed, now: float) -> list[AskForCalls | Announce]:
        """What to do now."""
        match event:
            case ListeningOn(port, hosts):
                if event != self._listening:
                    self._listening, self._port, self._own = event, port, hosts
                    self._forget(now)
            case Observed(observer, host, port, listening_port):
                before = self._candidates()
                self.observed.saw(observer, host, port, now, listening_port=listening_port)
                if before and before[0] not in self._candidates():
                    self._forget(now, but_observers=True)
            case PeerCame(peer):
                self._introducers.pop(peer, None)
                self._introducers[peer] = event
                if len(self._introducers) > _INTRODUCERS:
                    del self._introducers[self._whom_to_ask()[-1].peer]
            case PeerLeft(peer):
                self._introducers.pop(peer, None)
                self._asked.discard(peer)
            case Mapped(place):
                self._mapped = place
                self._asked.clear()
            case Proven(place, witness):
                if place in self._candidates() or place in self._proofs:
                    self._proofs.setdefault(place, set()).add(group_of(witness))
                    self._missed = 0
                    self._barred = False
            case Answered(_, tried, missed):
                self._pending = max(0, self._pending - 1)
                self._tried += tried
                self._missed += missed
                self._barred = self._barred or missed > 0
                if self._missed >= _REFUTING and missed == tried:
                    self._refuted()
            case DeadlinePassed():
                self._pass(now)
        effects: list[AskForCalls | Announce] = [*self._ask(now), *self._announce(now)]
        self.deadline = self._next_wake()
        return effects

    def _pass(self, now: float) -> None:
        if now >= self._began + SETTLING_SECONDS:
            self._settled = True
        self.observed.forget_old(now)
        if self._next_round is not None and now >= self._next_round:
            self._next_round = None
            self._asked.clear()
            self._pending = 0
            self._rounds += 1
            self._tried = self._missed = 0

    def _forget(self, now: float, but_observers: bool = False) -> None:
        """Where we are has changed: what was proven was proven of another place."""
        if not but_observers:
            self.observed.clear()
        self._proofs.clear()
        self._barred = False
        self._asked.clear()
        self._tried = self._missed = self._pending = self._rounds = 0
        self._next_round = None

    def _refuted(self) -> None:
        """Nobody comes through any more."""
        self._proofs.clear()

    def _candidates(self) -> list[Place]:
        """Where we might be reached, the most likely first: at most two are tried at a time."""
        places: dict[Place, None] = {}
        if self._mapped is not None:
            places[self._mapped] = None
        if self._port is not None:
            for host in (host for host in self._own if host in self.observed.hosts):
                places[host, self._port] = None
            for place in self.observed.places[:1]:
                places[place] = None
            for host in self.observed.hosts[:1]:
                places[host, self._port] = None
        return list(places)

    def _ask(self, now: float) -> list[AskForCalls]:
        candidates = self._candidates()[:2]
        effects: list[AskForCalls] = []
        if candidates:
            groups = {group_of(each.host) for peer, each in self._introducers.items() if peer in self._asked}
            for each in self._whom_to_ask():
                if len(self._asked) >= 3 or (self._is_public() and self._rounds == 0):
                    break
                if each.peer not in self._asked and group_of(each.host) not in groups:
                    groups.add(group_of(each.host))
                    self._asked.add(each.peer)
                    self._pending += 1
                    effects.append(AskForCalls(each.peer, tuple(candidates)))
            if self._asked and not self._pending and self._next_round is None:
                again = _AGAIN[min(self._rounds, len(_AGAIN) - 1)]
                self._next_round = now + (_AGAIN_WHEN_PUBLIC if self._is_public() else again)
        return effects

    def _whom_to_ask(self) -> list[PeerCame]:
        """Introducers, the best first: whom we called, the latest first; then who came, the first first."""
        known = list(self._introducers.values())
        return [each for each in reversed(known) if each.called] + [each for each in known if not each.called]

    def _next_wake(self) -> float | None:
        waits = [] if self._settled else [self._began + SETTLING_SECONDS]
        if self._next_round is not None:
            waits.append(self._next_round)
        return min(waits, default=None)

    def _announce(self, now: float) -> list[Announce]:
        known = self._judge()
        if self._is_public() or (self._tried and not self._pending and known.verdict != "unknown"):
            self._settled = True  # those who could say more have spoken
        if not self._settled and known.verdict != "public":
            return []
        if self._said is not None and (known.verdict, known.places) == (
            self._said.verdict,
            self._said.places,
        ):
            return []
        self._said = known
        return [Announce(known)]

    def _is_public(self) -> bool:
        return any(len(groups) >= _PROOFS for groups in self._proofs.values())

    def _judge(self) -> Reachability:
        proven = tuple(place for place, groups in self._proofs.items() if len(groups) >= _PROOFS)
        if proven:
            return Reachability("public", proven, f"strangers reached {_in_words(proven)}", "")
        forward = (
            "" if self._port is None else f"forward TCP port {self._port} to this computer on the router"
        )
        agreed = self.observed.agreed
        if agreed is not None:
            is_own = agreed[0] in self._own
            what = "a firewall" if is_own else "the router"
            if self._barred:
                why = f"all see this peer at {_in_words((agreed,))}, but {what} lets no strangers in"
            else:
                why = (
                    f"all see this peer at {_in_words((agreed,))}; whether strangers get in, nobody could try"
                )
            how = f"let TCP port {self._port} in through the firewall" if is_own else forward
            return Reachability("punchable", (agreed,), why, f"To be reached by everybody, {how}")
        if self.observed.differs:
            why = "the router shows everybody another port (symmetric), so most others come through relays"
            return Reachability("private", (), why, f"To be reached by everybody, {forward}")
        places = tuple(self.observed.places[:1])
        if not self.observed.hosts:
            why = "no peer outside has said where it sees this one"
        else:
            why = "too few witnesses: peers in two other networks would have to try"
        return Reachability("unknown", places, why, "It is tried again when more peers are known")


def _in_words(places: Sequence[Place]) -> str:
    return " and ".join(f"{host} port {port}" for host, port in places)
