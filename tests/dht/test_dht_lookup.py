"""Lookups: each transition alone, and many against a thousand simulated peers."""

from __future__ import annotations

import hashlib
import heapq
import random
from dataclasses import dataclass, field

import pytest

from moshgrid.dht.keys import point_of_peer
from moshgrid.dht.lookup import Answered, Ask, Done, Event, Failed, Lookup
from moshgrid.dht.routing import RoutingTable
from moshgrid.p2p.identity import PeerId, peer_id_from_public_key
from moshgrid.p2p.machine import DeadlinePassed

OWN = peer_id_from_public_key(hashlib.sha256(b"own").digest())
# Points of the unit tests are written down: peer "5" lies at 5, and the target at 0.
A, B, C, D, E = (PeerId(str(number)) for number in range(1, 6))


def lookup(*seeds: PeerId, need: int = 3, alpha: int = 2, **options: float) -> Lookup:
    return Lookup(0, seeds, own=OWN, need=need, alpha=alpha, distance_point=int, **options)  # type: ignore[arg-type]


def test_asks_the_nearest_first_and_alpha_at_once() -> None:
    assert lookup(C, A, D, B).start(0.0) == [Ask(A), Ask(B)]


def test_nobody_to_ask_is_the_end() -> None:
    machine = lookup()
    assert machine.start(0.0) == [Done((), True)]
    assert machine.deadline is None


def test_an_answer_makes_room_for_the_next() -> None:
    machine = lookup(B, C, D)
    machine.start(0.0)
    assert machine.handle(Answered(B, [A]), 0.1) == [Ask(A)]


def test_ends_when_the_need_nearest_have_answered() -> None:
    machine = lookup(A, B, C, D)
    machine.start(0.0)
    assert machine.handle(Answered(A, []), 0.1) == [Ask(C)]
    assert machine.handle(Answered(B, []), 0.1) == []
    assert machine.handle(Answered(C, []), 0.1) == [Done((A, B, C), True)]
    assert machine.handle(Answered(D, []), 0.1) == []


def test_a_failed_peer_is_replaced_by_the_next() -> None:
    machine = lookup(A, B, C, need=1, alpha=1, thorough=False)
    assert machine.start(0.0) == [Ask(A)]
    assert machine.handle(Failed(A), 0.1) == [Ask(B)]
    assert machine.handle(Answered(B, []), 0.2) == [Done((B,), True)]


def test_asks_again_past_those_that_failed_and_once_only() -> None:
    machine = lookup(A, C, D, need=2, alpha=2)
    machine.start(0.0)
    machine.handle(Answered(C, []), 0.1)
    assert machine.handle(Failed(A), 0.2) == [Ask(D)]
    assert machine.handle(Answered(D, []), 0.3) == [Ask(C, (A,)), Ask(D, (A,))]
    assert machine.handle(Answered(C, [B]), 0.4) == [Ask(B)]
    assert machine.handle(Answered(D, []), 0.5) == []
    assert machine.handle(Answered(B, []), 0.6) == [Done((B, C), True)]


def test_whoever_is_slow_when_asked_again_has_answered_all_the_same() -> None:
    machine = lookup(A, B, need=1, alpha=1, patience=1.0)
    machine.start(0.0)
    machine.handle(Failed(A), 0.1)
    assert machine.handle(Answered(B, []), 0.2) == [Ask(B, (A,))]
    assert machine.handle(DeadlinePassed(), 1.2) == [Done((B,), True)]


def test_failures_farther_than_the_result_are_no_reason_to_ask_again() -> None:
    machine = lookup(A, B, need=1, alpha=2)
    machine.start(0.0)
    assert machine.handle(Answered(A, []), 0.1) == [Done((A,), True)]


def test_a_slow_peer_frees_its_place_and_a_late_answer_counts() -> None:
    machine = lookup(A, B, need=2, alpha=1, patience=1.0)
    machine.start(0.0)
    assert machine.deadline == 1.0
    assert machine.handle(DeadlinePassed(), 1.0) == [Ask(B)]
    assert machine.deadline == 2.0
    assert machine.handle(Answered(A, [C]), 1.5) == []
    assert machine.handle(Answered(B, []), 1.6) == [Done((A, B), True)]


def test_a_late_answer_may_name_nearer_peers() -> None:
    machine = lookup(D, E, need=2, alpha=1, patience=1.0)
    machine.start(0.0)
    machine.handle(DeadlinePassed(), 1.0)
    assert machine.handle(Answered(D, [A, B]), 1.5) == []  # E is still asked, alpha is one
    assert machine.handle(Answered(E, []), 1.6) == [Ask(A)]


def test_does_not_wait_for_the_slow_once_the_others_answered() -> None:
    machine = lookup(A, B, C, need=2, alpha=3, patience=1.0, thorough=False)
    machine.start(0.0)
    machine.handle(Answered(B, []), 0.1)
    assert machine.handle(DeadlinePassed(), 1.0) == [Ask(C)]
    assert machine.handle(Answered(C, []), 1.1) == [Done((B, C), True)]


def test_time_ends_it() -> None:
    machine = lookup(A, B, timeout=3.0, patience=10.0)
    machine.start(0.0)
    machine.handle(Answered(B, []), 0.1)
    assert machine.deadline == 3.0
    assert machine.handle(DeadlinePassed(), 3.0) == [Done((B,), False)]
    assert machine.deadline is None


def test_questions_are_bounded() -> None:
    machine = Lookup(0, [PeerId("1000")], own=OWN, need=3, alpha=1, max_asks=5, distance_point=int)
    effects, asked, nearer = machine.start(0.0), 0, 1000
    while isinstance(effects[0], Ask):
        asked, nearer = asked + 1, nearer - 1
        effects = machine.handle(Answered(effects[0].peer, [PeerId(str(nearer))]), 0.0)
    assert asked == 5 and isinstance(effects[0], Done) and not effects[0].complete


@pytest.mark.parametrize("event", [Answered(E, [A]), Failed(E), Answered(OWN, [])])
def test_answers_of_peers_that_were_not_asked_change_nothing(event: Event) -> None:
    machine = lookup(C, D)
    machine.start(0.0)
    assert machine.handle(event, 0.1) == []
    machine.handle(Answered(C, []), 0.2)
    assert machine.handle(Answered(D, []), 0.2) == [Done((C, D), True)]


def test_a_second_answer_changes_nothing() -> None:
    machine = lookup(C, D)
    machine.start(0.0)
    machine.handle(Answered(C, []), 0.1)
    assert machine.handle(Answered(C, [A]), 0.1) == []
    assert machine.handle(Failed(C), 0.1) == []


def test_does_not_ask_itself() -> None:
    machine = Lookup(0, [OWN], own=OWN, need=2, alpha=2)
    assert machine.start(0.0) == [Done((), True)]


def test_names_that_are_no_peer_ids_are_passed_over() -> None:
    machine = Lookup(0, [OWN, PeerId("nonsense")], own=PeerId("x"), need=2, alpha=2)
    assert machine.start(0.0) == [Ask(OWN)]


PEERS = [peer_id_from_public_key(hashlib.sha256(number.to_bytes(4)).digest()) for number in range(1_000)]


@pytest.fixture(scope="module")
def tables() -> dict[PeerId, RoutingTable]:
    # What a table holds after a while: up to k peers of each bucket, whoever was heard of first.
    rng = random.Random(7)
    tables = {}
    for own in PEERS:
        table = tables[own] = RoutingTable(own)
        for peer in rng.sample(PEERS, len(PEERS)):
            if table.wants(peer):
                table.answered(peer, 0.0)
    return tables


@dataclass
class Outcome:
    done: Done
    asked: int
    most_at_once: int
    seconds: float


@dataclass(order=True)
class _Arrival:
    at: float
    number: int
    event: Event = field(compare=False)


def simulate(
    tables: dict[PeerId, RoutingTable], dead: set[PeerId], target: int, seed: int, alpha: int = 5
) -> Outcome:
    """Runs one lookup; its own count of open questions, by time, is the oracle for ``alpha``."""
    rng = random.Random(seed)
    own = rng.choice([peer for peer in PEERS if peer not in dead])
    machine = Lookup(target, tables[own].closest(target, 20), own=own, alpha=alpha, timeout=60.0)
    now, asked, most = 0.0, 0, 0
    open_since: dict[PeerId, float] = {}
    arrivals: list[_Arrival] = []
    effects = list(machine.start(now))
    while True:
        for effect in effects:
            if isinstance(effect, Done):
                return Outcome(effect, asked, most, now)
            asked += 1
            open_since[effect.peer] = now
            if effect.peer in dead:
                heapq.heappush(arrivals, _Arrival(now + 5.0, asked, Failed(effect.peer)))
            else:
                known = tables[effect.peer].closest(target, 21 + len(effect.skip))
                closer = [p for p in known if p != own and p not in effect.skip][:20]
                late = now + rng.uniform(0.01, 0.3)
                heapq.heappush(arrivals, _Arrival(late, asked, Answered(effect.peer, closer)))
        most = max(most, sum(1 for since in open_since.values() if since + 1.0 > now))
        deadline = machine.deadline
        assert deadline is not None
        if arrivals and arrivals[0].at <= deadline:
            arrival = heapq.heappop(arrivals)
            now = arrival.at
            open_since.pop(arrival.event.peer, None)
            effects = list(machine.handle(arrival.event, now))
        else:
            now = deadline
            effects = list(machine.handle(DeadlinePassed(), now))
            assert machine.deadline is None or machine.deadline > now


def test_finds_exactly_the_nearest_of_a_thousand(tables: dict[PeerId, RoutingTable]) -> None:
    for seed in range(40):
        target = random.Random(seed).getrandbits(256)
        outcome = simulate(tables, set(), target, seed)
        own = random.Random(seed).choice(PEERS)
        expected = heapq.nsmallest(
            20, (p for p in PEERS if p != own), key=lambda peer: point_of_peer(peer) ^ target
        )
        assert list(outcome.done.closest) == expected, seed
        assert outcome.most_at_once <= 5 and outcome.asked <= 40, seed


@pytest.mark.parametrize("alpha", [3, 10])
def test_a_third_dead_costs_little(tables: dict[PeerId, RoutingTable], alpha: int) -> None:
    for seed in range(20):
        rng = random.Random(1_000 + seed)
        dead = set(rng.sample(PEERS, 333))
        target = rng.getrandbits(256)
        outcome = simulate(tables, dead, target, seed, alpha)
        alive = heapq.nsmallest(
            20, (p for p in PEERS if p not in dead), key=lambda peer: point_of_peer(peer) ^ target
        )
        found = set(alive) & set(outcome.done.closest)
        assert len(found) >= 19, (seed, len(found))
        assert outcome.most_at_once <= alpha, seed
        assert not dead & set(outcome.done.closest), seed
