"""Matchmaking: each transition, and in simulation that groups agree and nobody is in two or stuck."""

import random

import pytest

from moshgrid.averaging.match_events import (
    Formed,
    NoGroup,
    OthersAwaited,
    Overtaken,
    PeerLost,
    SeekerGone,
    SeekerSeen,
    Tell,
    Told,
)
from moshgrid.averaging.matchmaking import Matchmaking
from moshgrid.averaging.messages import Accepted, Disbanded, Join, Leave, Offer, Refused
from moshgrid.averaging.topology import rank
from moshgrid.p2p.machine import DeadlinePassed
from moshgrid.p2p.testing.simulation import Simulation

OFFER = Offer(1.0, 0.0, bytes(32), "float16", True)
OTHER_SCHEMA = Offer(1.0, 0.0, b"x" * 32, "float16", True)
A, B, C, D = sorted("abcd", key=lambda peer: rank("0", 1, peer))  # A leads by rank


def seek(me, **kw):
    return Matchmaking(me, "0", 1, OFFER, kw.pop("size", 4), kw.pop("min_size", 2), 0.0, **kw)


def join(offer=OFFER):
    return Join("0", 1, offer)


def test_a_member_asks_the_three_lowest_ranks_at_once():
    machine = seek(D)
    asked = [machine.handle(SeekerSeen(peer), 0.0) for peer in (C, B, A)]
    assert asked == [[Tell(C, join())], [Tell(B, join())], [Tell(A, join())]]


def test_a_leader_accepts_and_closes_when_full():
    machine = seek(A, size=3)
    assert machine.handle(Told(B, join()), 0.0) == [Tell(B, Accepted("0", 1))]
    effects = machine.handle(Told(C, join()), 0.1)
    assert effects == [Tell(C, Accepted("0", 1)), Formed(((A, OFFER), (B, OFFER), (C, OFFER)))]


def test_a_leader_closes_after_a_short_silence_when_all_declared_have_come():
    machine = seek(A, silence=0.1)
    machine.handle(SeekerSeen(B), 0.0)
    machine.handle(Told(B, join()), 1.0)
    assert machine.deadline == pytest.approx(1.1)
    assert machine.handle(DeadlinePassed(), 1.1) == [Formed(((A, OFFER), (B, OFFER)))]


def test_a_leader_waits_for_who_is_declared_until_its_patience_is_over():
    machine = seek(A, patience=3.0)
    machine.handle(SeekerSeen(C), 0.0)
    machine.handle(Told(B, join()), 0.5)
    assert machine.handle(DeadlinePassed(), 1.0) == []
    assert machine.handle(DeadlinePassed(), 3.0) == [Formed(((A, OFFER), (B, OFFER)))]


def test_a_leader_does_not_wait_for_who_went_elsewhere():
    machine = seek(A)
    machine.handle(SeekerSeen(C), 0.0)
    machine.handle(Told(B, join()), 0.5)
    machine.handle(SeekerGone(C), 0.55)
    assert machine.handle(DeadlinePassed(), machine.deadline) == [Formed(((A, OFFER), (B, OFFER)))]


def test_a_leader_refuses_other_tensors_and_a_higher_rank():
    machine = seek(B)
    (refusal,) = machine.handle(Told(C, join(OTHER_SCHEMA)), 0.0)
    assert "shape" in refusal.message.reason
    effects = machine.handle(Told(A, join()), 0.0)
    assert effects[0].message.reason.startswith("outranked")
    assert effects[1] == Tell(A, join())


@pytest.mark.parametrize("number", [-1.0, float("nan"), float("inf"), 1e30])
def test_a_leader_refuses_numbers_that_make_no_sense(number):
    machine = seek(B)
    for offer in (
        Offer(number, 0.0, bytes(32), "float16", True),
        Offer(1.0, number, bytes(32), "float16", True),
    ):
        (refusal,) = machine.handle(Told(C, join(offer)), 0.0)
        assert "no sense" in refusal.message.reason


def test_who_follows_sends_its_followers_on():
    machine = seek(B)
    machine.handle(Told(C, join()), 0.0)
    machine.handle(SeekerSeen(A), 0.1)
    effects = machine.handle(Told(A, Accepted("0", 1)), 0.2)
    assert effects == [Tell(C, Disbanded("0", 1, A))]
    assert machine.leader == A
    (refusal,) = machine.handle(Told(D, join()), 0.3)
    assert refusal.message.try_instead == A


def test_a_follower_moves_to_a_lower_rank():
    machine = seek(C)
    machine.handle(SeekerSeen(B), 0.0)
    machine.handle(SeekerSeen(A), 0.0)
    machine.handle(Told(B, Accepted("0", 1)), 0.1)
    assert machine.handle(Told(A, Accepted("0", 1)), 0.3) == [Tell(B, Leave("0", 1))]
    assert machine.leader == A


def test_a_follower_leaves_it_to_its_leader_to_find_a_lower_rank():
    machine = seek(C)
    machine.handle(SeekerSeen(B), 0.0)
    machine.handle(Told(B, Accepted("0", 1)), 0.1)
    assert machine.handle(SeekerSeen(A), 0.2) == []
    assert machine.handle(Told(B, Disbanded("0", 1, A)), 0.3) == [Tell(A, join())]


def test_an_acceptance_nobody_asked_for_is_declined():
    assert seek(B).handle(Told(A, Accepted("0", 1)), 0.0) == [Tell(A, Leave("0", 1))]


def test_a_manifest_may_overtake_the_acceptance():
    machine = seek(C)
    assert not machine.would_follow(B)
    machine.handle(SeekerSeen(B), 0.0)
    assert machine.would_follow(B)
    machine.handle(SeekerSeen(A), 0.1)
    machine.handle(Told(A, Accepted("0", 1)), 0.2)
    assert machine.leader == A
    assert machine.would_follow(A)
    assert machine.would_follow(B)  # a group that has begun is worth more
    assert not machine.would_follow(D)
    assert machine.began([B, C]) == [Tell(A, Leave("0", 1))]
    assert not machine.would_follow(A)


def test_a_leader_that_does_not_begin_is_not_waited_for_long():
    machine = seek(C, patience=2.0, hard_limit=15.0)
    machine.handle(SeekerSeen(A), 0.0)
    machine.handle(Told(A, Accepted("0", 1)), 0.5)
    assert machine.handle(DeadlinePassed(), 2.0) == []
    assert machine.deadline == pytest.approx(3.5)
    (left, end) = machine.handle(DeadlinePassed(), 3.5)
    assert left == Tell(A, Leave("0", 1))
    assert "did not begin" in end.reason


def test_who_is_drawn_into_a_group_lets_its_own_followers_go():
    machine = seek(B)
    machine.handle(SeekerSeen(A), 0.0)
    machine.handle(Told(C, join()), 0.1)
    machine.handle(Told(D, join()), 0.1)
    assert machine.began([A, B, D]) == [Tell(C, Disbanded("0", 1, ""))]


def test_a_lost_leader_is_replaced():
    machine = seek(C)
    machine.handle(SeekerSeen(A), 0.0)
    machine.handle(Told(A, Accepted("0", 1)), 0.1)
    machine.handle(SeekerSeen(B), 0.2)
    effects = machine.handle(PeerLost(A), 0.3)
    assert machine.leader is None
    assert effects == [Tell(B, join())]


def test_a_refusal_names_whom_to_ask_and_who_is_taken():
    machine = seek(C)
    machine.handle(SeekerSeen(B), 0.0)
    assert machine.handle(Told(B, Refused("0", 1, "following", A, ())), 0.1) == [Tell(A, join())]
    machine.handle(Told(A, Refused("0", 1, "full", "", (A, B))), 0.2)
    machine.handle(Told(D, join()), 0.3)
    assert machine.handle(DeadlinePassed(), machine.deadline) == [Formed(((C, OFFER), (D, OFFER)))]


def test_a_leader_that_does_not_answer_is_passed_over():
    machine = seek(B, patience=1.0)
    machine.handle(SeekerSeen(A), 0.0)
    machine.handle(Told(C, join()), 0.1)
    assert machine.handle(DeadlinePassed(), 1.0) == [Formed(((B, OFFER), (C, OFFER)))]


def test_an_acceptance_after_a_refusal_counts():
    machine = seek(C)
    machine.handle(SeekerSeen(A), 0.0)
    machine.handle(SeekerSeen(B), 0.0)
    machine.handle(Told(B, Accepted("0", 1)), 0.1)
    machine.handle(Told(B, Disbanded("0", 1, A)), 0.1)  # asks A for the second time
    machine.handle(Told(A, Refused("0", 1, "following another leader", "", ())), 0.2)
    assert machine.would_follow(A)
    assert machine.handle(Told(A, Accepted("0", 1)), 0.3) == []
    assert machine.leader == A


def test_nobody_is_waited_for_beyond_the_patience():
    machine = seek(D, patience=1.0, hard_limit=15.0)
    for peer in (A, B, C, *(f"low{i}" for i in range(40))):
        machine.handle(SeekerSeen(peer), 0.0)
    (end,) = machine.handle(DeadlinePassed(), 1.0)
    assert isinstance(end, NoGroup)


def test_peers_that_are_expected_get_time_to_declare_themselves():
    machine = seek(A, undeclared=1.0)
    machine.handle(OthersAwaited(True), 0.0)
    machine.handle(Told(B, join()), 0.0)
    assert machine.deadline == pytest.approx(1.0)
    machine.handle(OthersAwaited(False), 0.05)
    assert machine.deadline == pytest.approx(0.1)
    late = seek(A, undeclared=1.0)
    late.handle(OthersAwaited(True), 0.0)
    late.handle(Told(B, join()), 0.0)
    assert late.handle(DeadlinePassed(), 1.0) == [Formed(((A, OFFER), (B, OFFER)))]


OVERTAKEN = NoGroup("others sealed this round meanwhile")


def test_who_is_overtaken_alone_gives_up_at_once():
    assert seek(A).handle(Overtaken(), 0.5) == [OVERTAKEN]


def test_who_is_overtaken_still_waits_for_all_that_may_come():
    waiting = seek(A, patience=3.0)
    waiting.handle(SeekerSeen(B), 0.0)
    assert waiting.handle(Overtaken(), 0.5) == []
    assert waiting.deadline == pytest.approx(3.0)
    assert waiting.handle(SeekerGone(B), 0.7) == [OVERTAKEN]
    undeclared = seek(A)
    undeclared.handle(OthersAwaited(True), 0.1)
    assert undeclared.handle(Overtaken(), 0.5) == []
    assert undeclared.handle(OthersAwaited(False), 0.6) == [OVERTAKEN]


def test_alone_there_is_no_group():
    machine = seek(A, patience=1.0)
    assert machine.handle(DeadlinePassed(), 1.0) == [NoGroup("no other peer was looking for a group")]
    assert machine.deadline is None


def simulate(seed, peers, size, arrive_within, crashed=0.0):
    """Everybody seeks under one key; returns the groups and who found none."""
    sim = Simulation(seed, latency=(0.001, 0.05))
    names = [f"p{i}" for i in range(peers)]
    machines, groups, alone, wakes = {}, [], {}, {}
    following = {}

    def perform(me, effects):
        for effect in effects:
            if me in sim.dead:
                return
            match effect:
                case Tell(peer, message):
                    sim.send(me, peer, message, lambda p=peer, m=message: event(p, Told(me, m)))
                case Formed(members):
                    roster = [peer for peer, _ in members]
                    groups.append(roster)
                    for peer in roster[1:]:
                        sim.send(me, peer, "begin", lambda p=peer, r=roster: begin(p, me, r))
                case NoGroup(reason):
                    alone[me] = reason
        schedule(me)

    def event(me, what):
        if me in sim.dead:
            return
        if me not in machines:
            early.setdefault(me, []).append(what)
            return
        perform(me, machines[me].handle(what, sim.now))

    def begin(me, leader, roster):
        if machines[me].would_follow(leader):
            perform(me, machines[me].began(roster))
            following[me] = leader

    def schedule(me):
        due = machines[me].deadline
        if due is None or wakes.get(me) == due:
            return
        wakes[me] = due

        def wake():
            if wakes.get(me) == due and me not in sim.dead:
                wakes.pop(me)
                event(me, DeadlinePassed())
                assert machines[me].deadline is None or machines[me].deadline > sim.now

        sim.at(due, wake)

    def arrive(me):
        machines[me] = Matchmaking(me, "0", 1, OFFER, size, 2, sim.now)
        for other in names:
            sim.send("dht", other, f"{me} declared", lambda o=other: o != me and event(o, SeekerSeen(me)))
        schedule(me)
        for what in early.pop(me, []):
            event(me, what)

    early = {}
    for name in names:
        sim.at(sim.rng.uniform(0, arrive_within), lambda n=name: arrive(n))
        if sim.rng.random() < crashed:
            sim.at(sim.rng.uniform(0, arrive_within + 1), lambda n=name: crash(n))

    def crash(me):
        sim.crash(me)
        for other in names:
            sim.send(me, other, "lost", lambda o=other: event(o, PeerLost(me)))

    sim.run(60)
    return sim, machines, groups, alone, following


@pytest.mark.parametrize("seed", range(30))
def test_groups_agree_and_nobody_is_left_out(seed):
    peers = random.Random(seed).randint(4, 24)
    _sim, machines, groups, _alone, following = simulate(seed, peers, 4, arrive_within=0.5)
    seated = [
        (leader[0], peer) for leader in groups for peer in leader[1:] if following.get(peer) == leader[0]
    ]
    leaders = [group[0] for group in groups]
    assert len(set(leaders)) == len(leaders)
    members = leaders + [peer for _, peer in seated]
    assert len(set(members)) == len(members), "somebody is in two groups"
    assert all(machine.over for machine in machines.values()), "somebody is stuck"
    assert len(members) >= peers - 1  # one may be left over
    assert all(len(group) <= 4 for group in groups)


@pytest.mark.parametrize("seed", range(30))
def test_crashes_leave_nobody_stuck(seed):
    sim, machines, _groups, _alone, _following = simulate(seed, 16, 4, arrive_within=0.5, crashed=0.25)
    assert all(machine.over for peer, machine in machines.items() if peer not in sim.dead)


def test_all_come_at_once_and_match_at_once():
    _sim, _machines, groups, alone, _following = simulate(1, 8, 8, arrive_within=0.001)
    assert [len(group) for group in groups] == [8]
    assert not alone
