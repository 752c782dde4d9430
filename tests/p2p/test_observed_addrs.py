"""What others see of us counts when two groups agree, whoever else lies."""

from __future__ import annotations

import random

from moshgrid.p2p.observed_addrs import ObservedAddrs

ME = "61.1.1.1"


def seen(*sightings: tuple[str, str, int], listening_port: bool = True) -> ObservedAddrs:
    observed = ObservedAddrs()
    for observer, host, port in sightings:
        observed.saw(observer, host, port, 0.0, listening_port=listening_port)
    return observed


def test_two_groups_that_agree_are_believed_and_two_peers_of_one_group_are_not():
    assert seen(("62.1.1.1", ME, 9)).agreed is None
    assert seen(("62.1.1.1", ME, 9), ("62.1.200.7", ME, 9)).agreed is None
    observed = seen(("62.1.1.1", ME, 9), ("63.1.1.1", ME, 9))
    assert observed.agreed == (ME, 9) and not observed.differs and observed.places == [(ME, 9)]


def test_a_router_that_shows_everybody_another_port_is_recognised_and_one_liar_is_not_one():
    symmetric = seen(("62.1.1.1", ME, 1), ("63.1.1.1", ME, 2), ("64.1.1.1", ME, 3))
    assert symmetric.differs and symmetric.agreed is None and symmetric.hosts == [ME]
    lied_to = seen(("62.1.1.1", ME, 9), ("63.1.1.1", "99.9.9.9", 1), ("64.1.1.1", ME, 9))
    assert lied_to.agreed == (ME, 9) and not lied_to.differs


def test_calls_from_another_port_tell_the_host_only():
    observed = seen(("62.1.1.1", ME, 50_001), ("63.1.1.1", ME, 50_002), listening_port=False)
    assert (observed.hosts, observed.places, observed.agreed, observed.differs) == ([ME], [], None, False)
    observed.saw("62.1.1.1", ME, 9, 1.0, listening_port=True)
    observed.saw("62.1.1.1", ME, 50_003, 2.0, listening_port=False)
    assert observed.places == [(ME, 9)]


def test_neighbours_and_nonsense_do_not_count():
    observed = ObservedAddrs()
    for observer, host, port in (
        ("192.168.1.1", ME, 9),
        ("62.1.1.1", "192.168.1.7", 9),
        ("62.1.1.1", "0.0.0.0", 9),
        ("62.1.1.1", ME, 0),
        ("62.1.1.1", ME, 65_536),
        ("nobody", ME, 9),
        ("62.1.1.1", "nowhere", 9),
    ):
        assert not observed.saw(observer, host, port, 0.0, listening_port=True)
    assert observed.hosts == [] and observed.observers == 0


def test_what_was_seen_is_bounded_renewed_and_forgotten():
    observed, chance = ObservedAddrs(), random.Random(1)
    for number in range(10_000):
        observer = f"{chance.randrange(1, 9)}.{chance.randrange(256)}.1.1"
        observed.saw(observer, ME, chance.randrange(1, 9), number / 1000, listening_port=True)
    assert observed.observers <= 32
    assert observed.saw("62.1.1.1", ME, 9, 20.0, listening_port=True)
    assert not observed.saw("62.1.1.1", ME, 9, 3000.0, listening_port=True)
    observed.forget_old(3650.0)
    assert observed.places == [(ME, 9)]
    observed.forget_old(7000.0)
    assert observed.places == []


def test_who_moved_believes_the_last_two_and_not_the_many_before():
    observed = ObservedAddrs()
    for number in range(10):
        observed.saw(f"70.{number}.1.1", "61.1.1.1", 4001, float(number), listening_port=True)
    assert not observed.in_doubt
    observed.saw("80.1.1.1", "61.2.2.2", 4001, 20.0, listening_port=True)
    assert observed.in_doubt and observed.agreed == ("61.1.1.1", 4001)
    observed.saw("80.2.1.1", "61.2.2.2", 4001, 21.0, listening_port=True)
    assert observed.agreed == ("61.2.2.2", 4001) and observed.hosts == ["61.2.2.2"] and not observed.in_doubt
    observed.saw("80.2.9.9", "61.3.3.3", 4001, 22.0, listening_port=True)
    observed.saw("80.2.8.8", "61.3.3.3", 4001, 23.0, listening_port=True)
    assert observed.agreed is None and "61.2.2.2" in observed.hosts, "one group has one voice"
