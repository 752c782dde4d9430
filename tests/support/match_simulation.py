"""Matchmaking among many peers with faults: lost messages, crashes, views that are out of date."""

from collections import Counter
from dataclasses import dataclass, field

from msgspec.structs import replace

from moshgrid.averaging.match_events import Formed, NoGroup, PeerLost, SeekerGone, SeekerSeen, Tell, Told
from moshgrid.averaging.matchmaking import Matchmaking
from moshgrid.averaging.messages import Join, Offer
from moshgrid.p2p.machine import DeadlinePassed
from moshgrid.p2p.testing.simulation import Simulation

OFFER = Offer(1.0, 0.0, bytes(32), "float16", True)
HARD_LIMIT = 15.0
CROWD = "203.0.113.0/24"
"""Where every second peer is."""


@dataclass
class Outcome:
    sim: Simulation
    machines: dict
    led: list = field(default_factory=list)
    """Rosters as their leaders closed them."""
    joined: dict = field(default_factory=dict)
    """The roster that a follower took, by follower; at most one each."""
    alone: dict = field(default_factory=dict)
    ended: dict = field(default_factory=dict)
    began: dict = field(default_factory=dict)
    twice: list = field(default_factory=list)

    def groups_of(self):
        """In how many groups everybody is, as leader or as a follower that took the manifest."""
        seats = Counter(roster[0] for roster in self.led)
        seats.update(self.joined.keys())
        return seats

    def living(self):
        return [peer for peer in self.machines if peer not in self.sim.dead]


class _Matching:
    def __init__(self, seed, peers, size, loss, crashed, stale, arrive_within, seats):
        self.sim = Simulation(seed, latency=(0.001, 0.05))
        self.names = [f"p{i}" for i in range(peers)]
        self.size, self.loss, self.seats = size, loss, seats
        self.out = Outcome(self.sim, {})
        self.wakes = {}
        self.early = {}
        rng = self.sim.rng
        self.stale = set(rng.sample(self.names, round(stale * peers)))
        for name in self.names:
            self.sim.at(rng.uniform(0, arrive_within), lambda n=name: self.arrive(n))
        for name in rng.sample(self.names, round(crashed * peers)):
            self.sim.at(rng.uniform(0, arrive_within + 0.5), lambda n=name: self.crash(n))

    def arrive(self, me):
        if me in self.sim.dead:
            return
        rng = self.sim.rng
        options = {"hard_limit": HARD_LIMIT, "seats_per_block": self.seats}
        machine = Matchmaking(me, "0", 1, OFFER, self.size, 2, self.sim.now, **options)
        self.out.machines[me], self.out.began[me] = machine, self.sim.now
        for other in self.names:
            # Who has an old view hears of only half of the others, and takes seconds to do so.
            if other in self.stale and rng.random() < 0.5:
                continue
            late = rng.uniform(0, 2.0) if other in self.stale else 0.0
            self.sim.at(
                self.sim.now + late,
                lambda o=other: self.sim.send(
                    "dht", o, f"{me} declared", lambda: o != me and self.event(o, SeekerSeen(me))
                ),
            )
        if me in self.stale:
            for other in rng.sample(self.names, 5):  # and believes in some that are long gone
                self.event(me, SeekerSeen(f"gone-{other}"))
        self.schedule(me)
        for what in self.early.pop(me, []):
            self.event(me, what)

    def crash(self, me):
        self.sim.crash(me)
        for other in self.names:
            self.sim.send(me, other, "lost", lambda o=other: self.event(o, PeerLost(me)))
            # its declaration lapses
            self.sim.at(self.sim.now + 5.0, lambda o=other: self.event(o, SeekerGone(me)))

    def event(self, me, what):
        if me in self.sim.dead:
            return
        if me not in self.out.machines:
            self.early.setdefault(me, []).append(what)
            return
        self.perform(me, self.out.machines[me].handle(what, self.sim.now))

    def send(self, me, peer, what, deliver):
        if self.sim.rng.random() >= self.loss and peer in self.names:
            self.sim.send(me, peer, what, deliver)

    def perform(self, me, effects):
        for effect in effects:
            match effect:
                case Tell(peer, message):
                    if isinstance(message, Join):
                        message = replace(message, seen_in=block_of(peer))
                    told = Told(me, message, block_of(me))
                    self.send(me, peer, message, lambda p=peer, t=told: self.event(p, t))
                case Formed(members):
                    roster = tuple(peer for peer, _ in members)
                    self.out.led.append(roster)
                    for peer in roster[1:]:
                        self.send(me, peer, "begin", lambda p=peer, r=roster: self.begin(p, me, r))
                case NoGroup(reason):
                    self.out.alone[me] = reason
        self.schedule(me)

    def begin(self, me, leader, roster):
        if me in self.sim.dead or not self.out.machines[me].would_follow(leader):
            return
        if me in self.out.joined:
            self.out.twice.append(me)
        self.out.joined[me] = roster
        self.perform(me, self.out.machines[me].began(roster))
        # Countersigning tells the manifest to all members: whom the leader's copy missed gets this one.
        for peer in roster[1:]:
            if peer != me:
                self.send(me, peer, "ready", lambda p=peer: self.begin(p, leader, roster))

    def schedule(self, me):
        machine = self.out.machines[me]
        if machine.over:
            self.out.ended.setdefault(me, self.sim.now)
        due = machine.deadline
        if due is None or self.wakes.get(me) == due:
            return
        self.wakes[me] = due

        def wake():
            if self.wakes.get(me) == due and me not in self.sim.dead:
                del self.wakes[me]
                self.event(me, DeadlinePassed())
                assert machine.deadline is None or machine.deadline > self.sim.now

        self.sim.at(due, wake)


def block_of(peer):
    """The address block that a peer is seen in: half of them are of one."""
    number = int(peer.rpartition("p")[2])
    return f"198.18.{number}.0/24" if number % 2 else CROWD


def match(seed, peers=40, size=8, loss=0.05, crashed=0.2, stale=0.3, arrive_within=0.5, seats=None):
    """One search of everybody under one key, until all have ended. ``seats``: for each address block."""
    matching = _Matching(seed, peers, size, loss, crashed, stale, arrive_within, seats)
    matching.sim.run(60)
    return matching.out
