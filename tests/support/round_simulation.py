"""A group's round in the simulator: production machines, fake signatures, integer tensors.

Each element of a part is the members' bitmask-like value, so an average reveals exactly who is in it.
"""

from collections import Counter
from dataclasses import dataclass, field

from blake3 import blake3

from moshgrid.averaging.effects import (
    Abort,
    Commit,
    Emit,
    Finish,
    Heard,
    MemberLost,
    PartArrived,
    Received,
    Reduce,
    Reduced,
    ResultArrived,
    Send,
    SendPart,
    SendResult,
)
from moshgrid.averaging.group_round import GroupRound
from moshgrid.averaging.manifest import Manifest, Member, sign_manifest
from moshgrid.averaging.suspicion import PaceBook
from moshgrid.p2p.identity import Identity, public_key_of, verify
from moshgrid.p2p.machine import DeadlinePassed
from moshgrid.p2p.testing.simulation import Simulation

IDENTITIES = [Identity.from_seed(bytes([i + 1]) * 32) for i in range(32)]


def manifest_for(n, parts_each=2, weights=None, roles=None, leader=0):
    """A signed manifest of ``n`` members (1 element a part) whose leader is ``IDENTITIES[leader]``."""
    order = [leader, *(i for i in range(n) if i != leader)]
    members = tuple(
        Member(
            IDENTITIES[i].peer_id,
            roles[i] if roles else "full",
            float(weights[i]) if weights else 1.0,
            1 / n,
        )
        for i in order
    )
    return sign_manifest(
        IDENTITIES[leader],
        Manifest(bytes(16), "0", 1, members, "none", "float32", n * parts_each, 1, bytes(32), b"", bytes(16)),
    )


@dataclass
class Outcome:
    """What a member's ``step`` would return."""

    committed: bool
    reason: str = ""
    value: tuple = ()
    at: float = 0.0


@dataclass
class Node:
    machine: GroupRound
    inputs: dict = field(default_factory=dict)
    results: dict = field(default_factory=dict)
    outcome: Outcome | None = None
    sent: int = 0
    wake: float | None = None


class SimulatedGroup:
    """``n`` members running one round.

    ``on_send(member, count)`` may return "before" or "after" to crash the member around its count-th
    message (counted from 1).
    """

    def __init__(
        self,
        n,
        seed=0,
        parts_each=2,
        latency=(0.001, 0.02),
        on_send=None,
        weights=None,
        roles=None,
        books=None,
        real_signatures=False,
    ):
        self.n = n
        self.sim = Simulation(seed, latency)
        self.signed = manifest_for(n, parts_each, weights, roles)
        self.on_send = on_send or (lambda member, count: None)
        self.signatures = Counter()
        self.events = []
        self.real_signatures = real_signatures
        books = books or [PaceBook() for _ in range(n)]
        self.nodes = [
            Node(GroupRound(self.signed, i, self._signer(i), self._verify, books[i], 0.0)) for i in range(n)
        ]
        for i, node in enumerate(self.nodes):
            for part in range(len(self.signed.parts)):
                node.inputs[i, part] = self.value_of(i, part)

    def value_of(self, member, part):
        return frozenset([(member, part)])

    def _signer(self, member):
        def sign(message):
            self.signatures[member] += 1
            if self.real_signatures:
                return IDENTITIES[member].sign(message)
            return b"%d:" % member + blake3(message).digest()

        return sign

    def _verify(self, member, signature, message):
        if self.real_signatures:
            return verify(public_key_of(self.signed.peers[member]), signature, message)
        return signature == b"%d:" % member + blake3(message).digest()

    def begin(self, members=None):
        for i in range(self.n) if members is None else members:
            self._perform(i, self.nodes[i].machine.start(b"countersigned", self.sim.now))

    def run(self, until=200.0):
        self.sim.run(
            until,
            stop=lambda: all(
                i in self.sim.dead or (node.outcome and node.machine.finished)
                for i, node in enumerate(self.nodes)
            ),
        )

    def crash(self, member):
        if member in self.sim.dead:
            return
        self.sim.crash(member)
        for other in range(self.n):
            if other != member:
                self.sim.send(
                    member,
                    other,
                    "lost",
                    lambda other=other: self._event(other, MemberLost(member, "connection lost")),
                )

    def wake(self, member):
        """Ends a freeze: what was held back arrives at once, and the clock goes on."""
        self.sim.thaw(member)
        self._schedule(member)

    def _later(self, member, event):
        """What a member's own work brings; while it stands still, so does its work."""

        def come():
            if self.sim.is_frozen(member):
                self._later(member, event)
            else:
                self._event(member, event)

        self.sim.at(self.sim.now + 0.001 + 0.1 * self.sim.is_frozen(member), come)

    def _event(self, member, event):
        if member in self.sim.dead or self.sim.is_frozen(member):
            return
        node = self.nodes[member]
        self._perform(member, node.machine.handle(event, self.sim.now))

    def _perform(self, member, effects):
        node = self.nodes[member]
        for effect in effects:
            if member in self.sim.dead:
                return
            match effect:
                case Send(to, message):
                    self._send(member, to, Received(member, message), None)
                case SendPart(to, part):
                    self._send(member, to, PartArrived(member, part), node.inputs[member, part])
                case SendResult(to, part, digest):
                    self._send(member, to, ResultArrived(member, part, digest), node.results[part, digest])
                case Reduce(part, contributors):
                    value = frozenset().union(*(node.inputs[i, part] for i in contributors))
                    digest = blake3(repr((part, sorted(value))).encode()).digest()
                    node.results[part, digest] = value
                    self._later(member, Reduced(part, digest))
                case Commit(_, value):
                    assert node.outcome is None, "committed twice"
                    held = tuple(node.results[part, digest] for part, digest in enumerate(value))
                    node.outcome = Outcome(True, "", held, self.sim.now)
                case Abort(reason):
                    assert node.outcome is None, "aborted after an outcome"
                    node.outcome = Outcome(False, reason, (), self.sim.now)
                case Emit(event, fields):
                    self.events.append((self.sim.now, member, event, dict(fields)))
                case Finish():
                    pass
        self._schedule(member)

    def _send(self, member, to, event, payload):
        node = self.nodes[member]
        node.sent += 1
        crash = self.on_send(member, node.sent)
        if crash == "before":
            return self.crash(member)

        def deliver():
            target = self.nodes[to]
            if isinstance(event, PartArrived):
                target.inputs[event.member, event.part] = payload
            elif isinstance(event, ResultArrived):
                target.results[event.part, event.digest] = payload
            if payload is not None:
                self._event(to, Heard(member, self.signed.part_bytes(event.part)))
            self._event(to, event)

        self.sim.send(member, to, event, deliver)
        if crash == "after":
            self.crash(member)

    def _schedule(self, member):
        node = self.nodes[member]
        due = node.machine.deadline
        if due is None or due == node.wake:
            return
        node.wake = due

        def wake():
            if node.wake != due or member in self.sim.dead:
                return
            node.wake = None
            if self.sim.is_frozen(member):
                self.sim.at(self.sim.now + 0.5, lambda: self._schedule(member))
                return
            self._event(member, DeadlinePassed())
            after = node.machine.deadline
            assert member in self.sim.dead or after is None or after > self.sim.now, (
                "the deadline did not move"
            )

        self.sim.at(due, wake)

    # What must hold ---------------------------------------------------------------------------------

    def check(self, may_abort=False, alive=None):
        """The seal's promises; returns the committed value per part, or None."""
        alive = [i for i in range(self.n) if i not in self.sim.dead] if alive is None else alive
        committed = {node.outcome.value for node in self.nodes if node.outcome and node.outcome.committed}
        assert len(committed) <= 1, "two members applied different bytes"
        for i in alive:
            assert self.nodes[i].outcome is not None, f"member {i} hangs"
            if not may_abort:
                assert self.nodes[i].outcome.committed, (i, self.nodes[i].outcome)
        if not committed:
            return None
        (value,) = committed
        everybody = {i for i, member in enumerate(self.signed.manifest.members) if member.weight > 0}
        for part, contributors in enumerate(value):
            assert contributors, "an average of nobody"
            assert all(p == part for _, p in contributors), "values of another part"
            assert {member for member, _ in contributors} <= everybody, "values of who does not count"
        return value
