"""Pairs of nodes behind every two types of NAT: directly where that is possible, else through a relay.

Nothing is taken on the nodes' word: the kernel's list of connections, and the counters of the routers and
of the internet, say which way the bytes went.
"""

from __future__ import annotations

from collections import Counter

import pytest
from lab import Lab
from matrix import LETS_IN, PAIRS, direct_over_tcp
from neighbourhood import Meeting, Neighbourhood, Pair
from routers import Nat
from wires import Wire

REPETITIONS = 10
TRIES = 3
SECONDS = 5.0  # for one try, as long as a group waits for its members' direct connections
SOME = ((Nat.PORT_RESTRICTED, Nat.PORT_RESTRICTED), (Nat.SYMMETRIC, Nat.ADDRESS_RESTRICTED))
HOPELESS = ((Nat.SYMMETRIC, Nat.PORT_RESTRICTED),)


def check(pair: Pair, meeting: Meeting) -> None:
    """The four signs, and the node's word, against the matrix."""
    assert meeting.plain == (pair[0] in LETS_IN, pair[1] in LETS_IN), (pair, meeting)
    assert meeting.echoed, (pair, meeting)
    expected = direct_over_tcp(*pair)
    assert meeting.direct == meeting.said.direct == expected, (pair, meeting)
    assert meeting.relayed != expected, (pair, meeting)


def test_some_pairs(lab: Lab) -> None:
    types = (Nat.ADDRESS_RESTRICTED, Nat.PORT_RESTRICTED, Nat.SYMMETRIC)
    street = Neighbourhood(lab, left=types[1:], right=types[:2])
    for pair, meeting in street.meet(SOME, TRIES, SECONDS).items():
        check(pair, meeting)
    for pair, meeting in street.meet(HOPELESS, 1, SECONDS).items():
        check(pair, meeting)
    assert not street.private_calls()


@pytest.mark.nat
@pytest.mark.timeout(1200)
def test_every_pair_ten_times(lab: Lab) -> None:
    """At the first try in 95 of 100 meetings, within three always; the others stay on the relay."""
    street = Neighbourhood(lab)
    possible = [pair for pair in PAIRS if direct_over_tcp(*pair)]
    hopeless = [pair for pair in PAIRS if not direct_over_tcp(*pair)]
    tries: Counter[int] = Counter()
    slow: Counter[Pair] = Counter()
    for _ in range(REPETITIONS):
        for pair, meeting in street.meet(possible, TRIES, SECONDS).items():
            check(pair, meeting)
            tries[meeting.said.tries] += 1
            slow[pair] += meeting.said.tries > 1
        for pair, meeting in street.meet(hopeless, 1, SECONDS).items():
            check(pair, meeting)
    assert not street.private_calls()
    print(f"tries needed: {dict(tries)}; more than one: {+slow}")
    assert tries[1] >= 0.95 * tries.total(), (tries, slow)


@pytest.mark.nat
@pytest.mark.timeout(600)
def test_every_pair_from_far_away(lab: Lab) -> None:
    """100 ms there and back, give or take 10, and 2 % lost: the same pairs meet, within three tries."""
    wire = Wire(delay=0.025, jitter=0.0025, loss=0.01)
    street = Neighbourhood(lab, wire=wire, payload=64 << 10)
    possible = [pair for pair in PAIRS if direct_over_tcp(*pair)]
    tries: Counter[int] = Counter()
    for pair, meeting in street.meet(possible, TRIES, SECONDS).items():
        check(pair, meeting)
        tries[meeting.said.tries] += 1
    print(f"tries needed from far away: {dict(tries)}")
