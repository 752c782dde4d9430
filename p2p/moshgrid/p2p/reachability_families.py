"""One verdict on reachability for each address family that this computer has, and what both say together.

A computer may be behind an address translator over IPv4 and stand in the open over IPv6, or be behind a
firewall there. What is proven in one family says nothing of the other. The verdict that counts is that of
IPv4, which nearly all others have; that of IPv6 where there is no IPv4 to the outside. Where others were met
over one family only, a few of them are called over the other too, so that they see this peer there; but only
those that were called anyway, as others may yet be witnesses.
"""

from __future__ import annotations

from collections.abc import Iterable

from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.machine import DeadlinePassed
from moshgrid.p2p.observed_addrs import ObservedAddrs, Place
from moshgrid.p2p.reachability import (
    Announce,
    Answered,
    AskForCalls,
    CallOver,
    Event,
    Family,
    ListeningOn,
    Mapped,
    Observed,
    PeerCame,
    PeerLeft,
    Proven,
    Reachability,
    family_of,
)
from moshgrid.p2p.reachability_machine import ReachabilityMachine

__all__ = ["ReachabilityFamilies"]

_FAMILIES: tuple[Family, ...] = ("ip4", "ip6")
_WANTED_OBSERVERS = 3
_CALLS_OVER = 8
"""So many peers are called over a family that few saw this peer in, within..."""
_CALLS_OVER_SECONDS = 300.0
_MAX_PEERS = 256

Effect = AskForCalls | CallOver | Announce


class ReachabilityFamilies:
    """Hands events to the machine of their family; begins with one for IPv4."""

    def __init__(self, now: float) -> None:
        self._machines: dict[Family, ReachabilityMachine] = {"ip4": ReachabilityMachine(now)}
        self._listening: dict[Family, ListeningOn] = {}
        self._peers: dict[PeerId, dict[Family, PeerCame]] = {}
        self._called_over: dict[tuple[PeerId, Family], float] = {}
        self._said: set[Family] = set()

    @property
    def families(self) -> tuple[Family, ...]:
        """Those that are judged."""
        return tuple(self._machines)

    @property
    def settled(self) -> bool:
        """True when something has been said of each."""
        return self._said >= set(self._machines)

    @property
    def deadline(self) -> float | None:
        """When to wake up."""
        waits = [each.deadline for each in self._machines.values() if each.deadline is not None]
        return min(waits, default=None)

    def observed(self, family: Family) -> ObservedAddrs:
        """What others saw in a family; nothing in one that is not judged."""
        machine = self._machines.get(family)
        return ObservedAddrs() if machine is None else machine.observed

    def listening_port(self, family: Family) -> int | None:
        """What others could call."""
        machine = self._machines.get(family)
        return None if machine is None else machine.listening_port

    @property
    def seen_at(self) -> tuple[Place, ...]:
        """Where others saw the listening ports."""
        return tuple(place for each in self._machines.values() for place in each.observed.places)

    @property
    def now_known(self) -> Reachability:
        """What holds, said or not."""
        known = {family: machine.now_known for family, machine in self._machines.items()}
        first = known[self._first]
        if len(known) == 1:
            return _of_both(first, known)
        six = known["ip6"]
        why = f"{first.why}. Over IPv6 {six.verdict}: {six.why}"
        advice = [first.improve, f"Over IPv6: {six.improve}" if six.improve else ""]
        return _of_both(
            Reachability(first.verdict, first.places, why, ". ".join(each for each in advice if each)), known
        )

    @property
    def _first(self) -> Family:
        return "ip4" if "ip4" in self._machines else "ip6"

    def handle(self, event: Event | DeadlinePassed, now: float) -> list[Effect]:
        """What to do now."""
        match event:
            case ListeningOn():
                effects = self._listens(event, now)
            case PeerCame(peer, host):
                self._peers.setdefault(peer, {})[family_of(host)] = event
                if len(self._peers) > _MAX_PEERS:
                    del self._peers[next(iter(self._peers))]
                effects = self._tell([family_of(host)], event, now)
            case PeerLeft(peer):
                self._peers.pop(peer, None)
                effects = self._tell(_FAMILIES, event, now)
            case Mapped():
                effects = self._tell(["ip4"], event, now)
            case Observed(_, host):
                effects = self._tell([family_of(host)], event, now)
            case Proven(place):
                effects = self._tell([family_of(place[0])], event, now)
            case Answered(places):
                effects = self._tell({family_of(host) for host, _ in places}, event, now)
            case DeadlinePassed():
                effects = self._tell(_FAMILIES, event, now)
        return [*effects, *self._call_over(now)]

    def _listens(self, event: ListeningOn, now: float) -> list[Effect]:
        self._listening[event.family] = event
        four, six = self._listening.get("ip4"), self._listening.get("ip6")
        wanted: list[Family] = ["ip6"] if six is not None and six.leads_outside and six.hosts else []
        if not wanted or (four is not None and four.leads_outside and (four.hosts or four.home_hosts)):
            wanted = ["ip4", *wanted]
        if wanted == list(self._machines):
            return self._tell([event.family], event, now)
        self._said &= set(wanted)
        before, self._machines = self._machines, {}
        effects: list[Effect] = []
        for family in wanted:
            known = self._machines[family] = before.get(family) or ReachabilityMachine(now)
            news: list[Event] = [self._listening[family]] if family in self._listening else []
            if family not in before:
                news += [met[family] for met in self._peers.values() if family in met]
            for each in news:
                effects += self._from(family, known.handle(each, now))
        return effects

    def _tell(self, families: Iterable[Family], event: Event | DeadlinePassed, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for family in families:
            if (machine := self._machines.get(family)) is not None:
                effects += self._from(family, machine.handle(event, now))
        return effects

    def _from(self, family: Family, effects: Iterable[AskForCalls | Announce]) -> list[Effect]:
        """What one machine wants; what it says is said of both, once there is something of the first."""
        wanted: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Announce):
                self._said.add(family)
                if self._first in self._said:
                    wanted.append(Announce(self.now_known))
            else:
                wanted.append(effect)
        return wanted

    def _call_over(self, now: float) -> list[Effect]:
        """Peers that were met over one family are called over the other, while few saw us there."""
        recent = {key: at for key, at in self._called_over.items() if now - at < _CALLS_OVER_SECONDS}
        self._called_over = recent
        effects: list[Effect] = []
        for family, machine in self._machines.items():
            if machine.listening_port is None or machine.observed.observers >= _WANTED_OBSERVERS:
                continue
            budget = _CALLS_OVER - sum(other == family for _, other in recent)
            others = [
                peer
                for peer, met in self._peers.items()
                if family not in met
                and (peer, family) not in recent
                and any(each.called for each in met.values())
            ]
            for peer in others[: max(0, budget)]:
                recent[peer, family] = now
                effects.append(CallOver(peer, family))
        return effects


def _of_both(found: Reachability, known: dict[Family, Reachability]) -> Reachability:
    return Reachability(found.verdict, found.places, found.why, found.improve, known)
