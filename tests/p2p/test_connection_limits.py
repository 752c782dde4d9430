"""Who may come in and who may stay: counting, without sockets."""

from __future__ import annotations

import random
from ipaddress import ip_network

import pytest

from moshgrid.p2p.connection_limits import HOME, Admission, ConnectionLimits, Guest, Refusal, source_of

SMALL = ConnectionLimits(
    arrival_burst=1e9,
    unauthenticated_per_source=2,
    authenticated_per_source=3,
    transient=6,
    total=8,
    exempt=(),
)


class Door:
    """An admission and whom it dismissed."""

    def __init__(self, limits: ConnectionLimits = SMALL, **options: bool) -> None:
        self.admission = Admission(limits, **options)
        self.dismissed: list[int] = []
        self._count = 0
        self.now = 0.0

    def arrive(self, address: str) -> Guest | Refusal:
        self._count += 1
        number = self._count
        return self.admission.arrived(address, lambda: self.dismissed.append(number), self.now)

    def enter(self, address: str) -> Refusal | None:
        guest = self.arrive(address)
        assert isinstance(guest, Guest)
        return self.admission.authenticate(guest, "nobody", self.now)


def test_the_numbers_of_a_public_peer():
    limits = ConnectionLimits()
    assert (limits.unauthenticated_per_source, limits.authenticated_per_source) == (16, 64)
    assert (limits.per_peer, limits.handshake_seconds, limits.negotiation_seconds) == (8, 10.0, 10.0)


def test_twenty_four_peers_behind_one_address_get_in_at_once():
    door = Door(ConnectionLimits())
    for _ in range(24):
        assert door.enter("203.0.113.7") is None


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2ff::1", "2001:db8:1:200::/56"),
        ("2001:db8:1:200:1:2:3:4", "2001:db8:1:200::/56"),
        ("fe80::1%eth0", "fe80::/56"),
    ],
)
def test_what_counts_as_one_source(address, source):
    assert source_of(address) == source


def test_a_source_has_its_limit_and_others_have_theirs():
    door = Door()
    first = door.arrive("203.0.113.7")
    assert isinstance(door.arrive("203.0.113.7"), Guest)
    assert door.arrive("203.0.113.7") is Refusal.UNAUTHENTICATED
    assert isinstance(door.arrive("203.0.113.8"), Guest)
    door.admission.left(first)
    door.admission.left(first)
    assert isinstance(door.arrive("203.0.113.7"), Guest)
    assert door.admission.refused[Refusal.UNAUTHENTICATED] == 1


def test_a_source_may_come_so_often_and_others_too():
    door = Door(ConnectionLimits(arrivals_per_second=2.0, arrival_burst=3.0))

    def come(address: str) -> object:
        guest = door.arrive(address)
        if isinstance(guest, Guest):
            door.admission.left(guest)
            return Guest
        return guest

    assert [come("203.0.113.7") for _ in range(4)] == [Guest] * 3 + [Refusal.TOO_OFTEN]
    assert come("203.0.113.8") is Guest
    assert [come("127.0.0.1") for _ in range(9)] == [Guest] * 9
    door.now = 0.5
    assert [come("203.0.113.7") for _ in range(2)] == [Guest, Refusal.TOO_OFTEN]


def test_who_is_known_makes_room_for_strangers_and_has_a_limit_too():
    door = Door()
    assert [door.enter("203.0.113.7") for _ in range(4)] == [None] * 3 + [Refusal.AUTHENTICATED]
    assert (door.admission.unauthenticated, door.admission.authenticated) == (0, 3)
    assert isinstance(door.arrive("203.0.113.7"), Guest)


def test_home_has_no_limit_of_its_own_and_it_can_be_taken_away():
    limits = ConnectionLimits(unauthenticated_per_source=1, authenticated_per_source=1)
    for address in ("127.0.0.1", "192.168.1.5", "::1", "::ffff:10.0.0.1", "fe80::1"):
        door = Door(limits)
        assert [door.enter(address) for _ in range(5)] == [None] * 5
    assert ip_network("127.0.0.0/8") in HOME
    door = Door(SMALL)
    assert [type(door.arrive("127.0.0.1")) for _ in range(3)] == [Guest, Guest, Refusal]


def test_members_of_a_private_network_may_always_stay():
    door = Door(members_only=True)
    assert [door.enter("203.0.113.7") for _ in range(8)] == [None] * 8


def test_when_all_is_taken_the_largest_crowd_makes_room_for_a_newcomer():
    door = Door()
    for address in ("203.0.113.1", "203.0.113.2", "203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4"):
        assert isinstance(door.arrive(address), Guest)
    assert isinstance(door.arrive("203.0.113.5"), Guest)
    assert door.dismissed == [1]
    assert isinstance(door.arrive("203.0.113.6"), Guest)
    assert door.dismissed == [1, 2]
    assert door.admission.unauthenticated == 6


def test_a_newcomer_of_the_largest_crowd_is_refused_when_all_is_taken():
    door = Door()
    for number in range(6):
        assert isinstance(door.arrive(f"203.0.113.{number}"), Guest)
    assert door.arrive("203.0.113.0") is Refusal.FULL
    assert isinstance(door.arrive("203.0.113.9"), Refusal | Guest)
    assert door.dismissed in ([], [1])


def test_the_exempt_are_never_dismissed_and_can_fill_the_house():
    limits = ConnectionLimits(transient=3)
    door = Door(limits)
    for _ in range(3):
        assert isinstance(door.arrive("127.0.0.1"), Guest)
    assert door.arrive("203.0.113.1") is Refusal.FULL
    assert door.arrive("127.0.0.1") is Refusal.FULL


def test_no_descriptors_left_costs_a_stranger_its_place():
    door = Door()
    door.admission.make_room()
    door.arrive("203.0.113.1")
    door.admission.make_room()
    assert (door.dismissed, door.admission.unauthenticated) == ([1], 0)


@pytest.mark.parametrize("descriptors", [64, 256, 1024, 1 << 20])
def test_the_limits_fit_into_the_process(descriptors):
    limits = ConnectionLimits().fitted(descriptors)
    assert limits.transient + limits.total <= max(24, descriptors * 3 // 4)
    assert limits.per_peer == 8


@pytest.mark.parametrize("seed", range(20))
def test_no_order_of_events_breaks_a_bound(seed):
    chance = random.Random(seed)
    admission = Admission(SMALL)
    strangers: list[Guest] = []
    known: list[Guest] = []
    for _ in range(2000):
        what = chance.random()
        if what < 0.5:
            guest = admission.arrived(f"203.0.113.{chance.randrange(6)}", lambda: None, 0.0)
            if isinstance(guest, Guest):
                strangers.append(guest)
        elif what < 0.7 and strangers:
            guest = strangers.pop(chance.randrange(len(strangers)))
            if guest.crowd is not None and admission.authenticate(guest, "nobody", 0.0) is None:
                known.append(guest)
        elif what < 0.85 and strangers:
            admission.left(strangers.pop(chance.randrange(len(strangers))))
        elif known:
            admission.left(known.pop(chance.randrange(len(known))))
        for crowd, each, places in ((strangers, 2, 6), (known, 3, 8)):
            crowd[:] = [guest for guest in crowd if guest.crowd is not None]
            sources = [guest.source for guest in crowd]
            assert len(sources) <= places
            assert all(sources.count(source) <= each for source in sources)
        assert (admission.unauthenticated, admission.authenticated) == (len(strangers), len(known))
    for guest in strangers + known:
        admission.left(guest)
    assert (admission.unauthenticated, admission.authenticated) == (0, 0)


def offend(door: Door, address: str, peer: str) -> None:
    guest = door.arrive(address)
    assert isinstance(guest, Guest)
    assert door.admission.authenticate(guest, peer, door.now) is None
    door.admission.offended(guest, peer, door.now)
    door.admission.left(guest)


def test_a_peer_that_broke_the_rules_waits_wherever_it_comes_from_and_its_neighbours_do_not():
    door = Door()
    offend(door, "203.0.113.7", "mallory")
    for address in ("203.0.113.7", "198.51.100.1"):
        guest = door.arrive(address)
        assert isinstance(guest, Guest)
        assert door.admission.authenticate(guest, "mallory", 0.5) is Refusal.BARRED
    assert door.enter("203.0.113.7") is None
    assert door.admission.refused[Refusal.BARRED] == 2
    guest = door.arrive("203.0.113.7")
    assert isinstance(guest, Guest)
    assert door.admission.authenticate(guest, "mallory", 1.5) is None


def test_an_address_where_it_goes_on_is_refused_unheard_and_never_for_long():
    door = Door()
    for name in ("mallory", "malice"):
        offend(door, "203.0.113.7", name)
    assert door.enter("203.0.113.7") is None
    offend(door, "203.0.113.7", "mallet")
    assert door.arrive("203.0.113.7") is Refusal.BARRED
    assert door.enter("203.0.113.8") is None
    door.now = 1.5
    assert door.enter("203.0.113.7") is None
    for number in range(100):  # however often: sixteen seconds
        offend(door, "203.0.113.7", f"mallory {number}")
        assert door.arrive("203.0.113.7") is Refusal.BARRED
        door.now += 16.5
    assert isinstance(door.arrive("203.0.113.7"), Guest)


def test_neighbours_and_members_have_no_penalties():
    home = Door(ConnectionLimits())
    for _ in range(5):
        offend(home, "127.0.0.1", "mallory")
    assert isinstance(home.arrive("127.0.0.1"), Guest)
    club = Door(members_only=True)
    for number in range(5):
        offend(club, "203.0.113.7", f"member {number}")
    assert isinstance(club.arrive("203.0.113.7"), Guest)


def test_an_ipv6_site_has_eight_times_what_a_source_has():
    limits = ConnectionLimits(arrival_burst=1e9, unauthenticated_per_source=2, exempt=())
    door = Door(limits)
    for house in range(8):
        for _ in range(2):
            assert isinstance(door.arrive(f"2001:db8:1:{house:x}00::1"), Guest)
    assert door.arrive("2001:db8:1:8800::1") is Refusal.UNAUTHENTICATED
    other = door.arrive("2001:db8:2:100::1")
    assert isinstance(other, Guest)
    door.admission.left(other)
    assert isinstance(door.arrive("2001:db8:2:100::1"), Guest)


def test_an_ipv6_site_has_a_rate():
    limits = ConnectionLimits(arrival_burst=2.0, exempt=())
    door = Door(limits)
    arrivals = [door.arrive(f"2001:db8:1:{house:x}00::1") for house in range(40)]
    assert arrivals.count(Refusal.TOO_OFTEN) == 40 - 16
    assert isinstance(door.arrive("2001:db8:2::1"), Guest)
