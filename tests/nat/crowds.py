"""Peers of one run in the lab: opened behind their routers, joined, and stepped together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from lab import Host, Lab
from neighbourhood import Relay
from peers import Peer, Process

STEP_SECONDS = 120.0  # after which an answer is not awaited any more; rounds end long before
Said = dict[str, Any]


def two_relays(lab: Lab, group: int = 0) -> list[Relay]:
    """Two relays in different address groups, each of which everybody can join through."""
    relays = [Relay(lab, f"relay-{each}", each) for each in (group, group + 1)]
    relays[0].open()
    relays[1].open([relays[0].addr])
    return relays


class Crowd:
    """Peers of a run, one on each host; the number of a peer is its values' offset."""

    def __init__(self, hosts: Sequence[Host], relays: Sequence[Relay], at_once: int = 8) -> None:
        bootstrap = [relay.addr for relay in relays]
        processes = [Process(host) for host in hosts]
        self.peers: list[Peer] = []
        for first in range(0, len(hosts), at_once):
            some = processes[first : first + at_once]
            for process, said in [(p, p.soon("open", bootstrap=bootstrap)) for p in some]:
                found = said.result(STEP_SECONDS)
                self.peers.append(Peer(process, found["node"], found["peer"], tuple(found["addrs"])))
        self.relays = relays
        self._at_once = at_once

    def join(self, run: str, floats: int, **options: Any) -> None:
        """Everybody takes part in a run, a few at a time."""
        for first in range(0, len(self.peers), self._at_once):
            some = self.peers[first : first + self._at_once]
            for said in [peer.soon("join_run", run=run, floats=floats, **options) for peer in some]:
                said.result(STEP_SECONDS)

    def begin_step(self) -> list[Future[Said]]:
        """Everybody begins a round."""
        return [peer.soon("step", offset=float(number)) for number, peer in enumerate(self.peers)]

    def step(self) -> list[Said]:
        """One round of everybody: what each says of it."""
        return [said.result(STEP_SECONDS) for said in self.begin_step()]

    def step_until(self, enough: Callable[[Said], bool], rounds: int) -> list[Said]:
        """What everybody says of the first round that was enough for all. Raises AssertionError."""
        last: list[Said] = []
        for _ in range(rounds):
            last = self.step()
            if all(enough(said) for said in last):
                return last
        raise AssertionError(f"not within {rounds} rounds; the last: {[said['text'] for said in last]}")

    def check(self, said: Said, tolerance: float = 1e-3) -> None:
        """A committed average is the mean of those that the report names, at every element.

        Where somebody was lost midway, and so is in a part of the elements only, it lies between them.
        """
        numbers = {peer.peer_id: number for number, peer in enumerate(self.peers)}
        shares = {numbers[peer]: share for peer, share in said["contributors"].items()}
        if set(shares.values()) == {1.0}:
            assert abs(said["offset"] - sum(shares) / len(shares)) <= tolerance, said
            assert said["off"] <= tolerance, said
        else:
            given = [number for number, share in shares.items() if share]
            assert min(given) - tolerance <= said["offset"] <= max(given) + tolerance, said
