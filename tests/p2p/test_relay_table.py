"""A relay's accounts: who may reserve and connect, what a circuit may carry; everything comes back."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.relay_limits import RelayLimits
from moshgrid.p2p.relay_messages import RelayStatus
from moshgrid.p2p.relay_table import Circuit, RelayTable

HOME, FAR, NEAR = "203.0.113.7", "198.51.100.1", "192.168.1.5"


def peers(count: int, name: str = "peer") -> list[PeerId]:
    return [PeerId(f"{name} {number}") for number in range(count)]


def nothing_left(table: RelayTable) -> bool:
    return not any(table.counts.values())


def test_the_defaults_hold_24_peers_of_one_address_each_connected_to_every_other():
    table, family = RelayTable(RelayLimits()), peers(24)
    for peer in family:
        assert table.reserve(peer, HOME, 0.0) is RelayStatus.OK
    circuits = []
    for number, one in enumerate(family):
        for other in family[number + 1 :]:
            circuit = table.connect(one, other, (HOME, HOME), 1.0)
            assert isinstance(circuit, Circuit)
            circuits.append(circuit)
    assert table.circuits == 24 * 23 // 2
    for circuit in circuits:
        table.end(circuit)
    for peer in family:
        table.release(peer)
    assert nothing_left(table) and not table.refused


def test_five_hundred_identities_of_one_address_get_their_share_and_nobody_elses():
    table = RelayTable(RelayLimits())
    answers = [table.reserve(peer, HOME, 0.0) for peer in peers(500)]
    assert answers.count(RelayStatus.OK) == table.reservations == RelayLimits().reservations_per_source
    assert set(answers) == {RelayStatus.OK, RelayStatus.RESERVATION_REFUSED}
    assert table.reserve(PeerId("somebody else"), FAR, 0.0) is RelayStatus.OK


@pytest.mark.parametrize(
    ("address", "granted"), [("2001:db8:0:1::1", 32), ("::ffff:203.0.113.7", 32), (NEAR, 128)]
)
def test_a_source_is_an_ipv4_address_or_the_block_of_an_ipv6_one_and_home_is_exempt(address, granted):
    table = RelayTable(RelayLimits())
    same = {"2001:db8:0:1::1": "2001:db8:0:ff::2", "::ffff:203.0.113.7": HOME}.get(address, "192.168.7.7")
    answers = [
        table.reserve(peer, (address, same)[number % 2], 0.0) for number, peer in enumerate(peers(500))
    ]
    assert answers.count(RelayStatus.OK) == granted


def test_renewing_takes_no_second_place_and_moving_frees_the_first():
    table = RelayTable(RelayLimits(reservations_per_source=2, reservations=3))
    one, two, three, four = peers(4)
    for now in range(1000):
        assert table.reserve(one, HOME, float(now)) is RelayStatus.OK
    assert table.reservations == 1
    assert table.reserve(two, HOME, 1000.0) is RelayStatus.OK
    assert table.reserve(three, HOME, 1000.0) is RelayStatus.RESERVATION_REFUSED
    assert table.reserve(two, FAR, 1000.0) is RelayStatus.OK  # it has another address now
    assert table.reserve(three, HOME, 1000.0) is RelayStatus.OK
    assert table.reserve(four, FAR, 1000.0) is RelayStatus.RESERVATION_REFUSED  # three is all there are
    assert table.reserve(two, HOME, 1000.0) is RelayStatus.RESERVATION_REFUSED and table.holds(two, 1000.0)
    for peer in (one, two, three):
        table.release(peer)
        table.release(peer)
    assert nothing_left(table)


def test_reservations_expire_and_renewed_ones_later():
    table = RelayTable(RelayLimits(reservation_seconds=100))
    one, two, asker = peers(3)
    table.reserve(one, HOME, 0.0)
    table.reserve(two, HOME, 0.0)
    table.reserve(one, HOME, 50.0)
    assert table.connect(asker, two, (FAR, HOME), 99.0) is not RelayStatus.NO_RESERVATION
    assert table.connect(asker, two, (FAR, HOME), 100.0) is RelayStatus.NO_RESERVATION
    assert table.holds(one, 149.0) and not table.holds(one, 150.0)
    assert table.reservations == 0


def test_why_a_circuit_is_refused():
    limits = RelayLimits(circuits=4, circuits_per_peer=2, circuits_per_source=3)
    table = RelayTable(limits)
    one, two, three, four = peers(4)
    assert table.connect(one, two, (HOME, FAR), 0.0) is RelayStatus.NO_RESERVATION
    for peer in (one, two, three, four):
        table.reserve(peer, FAR, 0.0)
    assert table.connect(one, one, (HOME, HOME), 0.0) is RelayStatus.PERMISSION_DENIED
    made = [table.connect(one, two, (HOME, FAR), 0.0) for _ in range(3)]
    assert [type(each) for each in made] == [Circuit, Circuit, RelayStatus]
    assert made[2] is RelayStatus.RESOURCE_LIMIT_EXCEEDED
    assert isinstance(table.connect(three, four, (FAR, NEAR), 0.0), Circuit)
    assert (
        table.connect(three, four, (FAR, NEAR), 0.0) is RelayStatus.RESOURCE_LIMIT_EXCEEDED
    )  # FAR has three
    table.end(made[0])
    table.end(made[0])
    assert isinstance(table.connect(three, four, (FAR, NEAR), 0.0), Circuit)
    assert table.refused == {
        RelayStatus.NO_RESERVATION: 1,
        RelayStatus.PERMISSION_DENIED: 1,
        RelayStatus.RESOURCE_LIMIT_EXCEEDED: 2,
    }


def test_bytes_are_counted_once_and_each_direction_has_its_own():
    table = RelayTable(RelayLimits(circuit_bytes=1000))
    one, two = peers(2)
    table.reserve(two, HOME, 0.0)
    circuit = table.connect(one, two, (FAR, HOME), 0.0)
    table.spend(circuit, 0, 600, 0.0)
    table.spend(circuit, 1, 1000, 0.0)
    assert (circuit.left, circuit.moved, table.bytes_relayed) == ([400, 0], [600, 1000], 1600)


def test_a_peer_and_a_source_have_a_rate_that_new_circuits_do_not_renew():
    table = RelayTable(RelayLimits(circuit_bytes=0, peer_rate=100.0, source_rate=150.0))
    one, other, target = peers(3)
    table.reserve(target, NEAR, 0.0)

    def send(peer: PeerId, count: int, now: float) -> float:
        circuit = table.connect(peer, target, (HOME, NEAR), now)
        wait = table.spend(circuit, 0, count, now)
        table.end(circuit)
        return wait

    assert send(one, 200, 0.0) == 0.0  # the burst of two seconds
    assert send(one, 50, 0.0) == 0.5
    assert send(other, 50, 0.0) == 0.0  # 300 of this source's burst are gone now
    assert send(other, 75, 0.0) == 0.5
    assert send(one, 10, 1000.0) == 0.0


def test_ten_thousand_circuits_leave_no_trace():
    table, chance = RelayTable(RelayLimits()), random.Random(1)
    crowd = peers(60)
    open_now: list[Circuit] = []
    opened = 0
    now = 0.0
    while opened < 10_000:
        now += 0.01
        target, asker = chance.sample(crowd, 2)
        table.reserve(target, f"203.0.113.{crowd.index(target)}", now)
        circuit = table.connect(asker, target, (f"203.0.113.{crowd.index(asker)}", HOME), now)
        if isinstance(circuit, Circuit):
            opened += 1
            open_now.append(circuit)
            table.spend(circuit, chance.randrange(2), chance.randrange(1000), now)
        if len(open_now) > 100 or not isinstance(circuit, Circuit):
            table.end(open_now.pop(chance.randrange(len(open_now))))
    for circuit in open_now:
        table.end(circuit)
    for peer in crowd:
        table.release(peer)
    assert nothing_left(table)


class Accounts(RuleBasedStateMachine):
    """Whatever happens in whatever order, no limit is exceeded and the sums agree with a plain recount."""

    LIMITS = RelayLimits(
        reservations=6,
        reservations_per_source=3,
        reservation_seconds=50,
        circuits=8,
        circuits_per_peer=3,
        circuits_per_source=5,
    )
    PEERS = peers(8)
    PLACES = (HOME, FAR, NEAR)

    def __init__(self) -> None:
        super().__init__()
        self.table = RelayTable(self.LIMITS)
        self.now = 0.0
        self.open: list[tuple[Circuit, tuple[str, str]]] = []

    @rule(peer=st.sampled_from(PEERS), place=st.sampled_from(PLACES))
    def reserve(self, peer, place):
        self.table.reserve(peer, place, self.now)

    @rule(peer=st.sampled_from(PEERS))
    def release(self, peer):
        self.table.release(peer)

    @rule(one=st.sampled_from(PEERS), other=st.sampled_from(PEERS), place=st.sampled_from(PLACES))
    def connect(self, one, other, place):
        held = self.table.holds(other, self.now)
        circuit = self.table.connect(one, other, (place, HOME), self.now)
        if isinstance(circuit, Circuit):
            assert held and one != other
            self.open.append((circuit, (place, HOME)))

    @rule(which=st.integers(0, 20))
    def end(self, which):
        if self.open:
            self.table.end(self.open.pop(which % len(self.open))[0])

    @rule(seconds=st.floats(0, 60))
    def wait(self, seconds):
        self.now += seconds

    @invariant()
    def holds(self):
        limits, counts = self.LIMITS, self.table.counts
        assert counts["reservations"] <= limits.reservations
        assert counts["circuits"] == len(self.open) <= limits.circuits
        ends = {peer for circuit, _ in self.open for peer in circuit.ends}
        assert counts["peers of circuits"] == len(ends)
        for peer in ends:
            assert sum(peer in circuit.ends for circuit, _ in self.open) <= limits.circuits_per_peer
        for place in (HOME, FAR):
            assert sum(place in places for _, places in self.open) <= limits.circuits_per_source

    def teardown(self):
        for circuit, _ in self.open:
            self.table.end(circuit)
        for peer in self.PEERS:
            self.table.release(peer)
        assert nothing_left(self.table)


TestAccounts = Accounts.TestCase
TestAccounts.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
