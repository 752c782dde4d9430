"""The round's promises in simulation: crash at every message, freezes, wrong suspicion, partitions."""

import random

import pytest
from round_simulation import SimulatedGroup

from moshgrid.averaging.effects import Abort, Heard, Received, ResultTaken
from moshgrid.averaging.messages import Alive, Decided, Decline, Fetch, Ready, Sealed


def contributors(value):
    return [{member for member, _ in part} for part in value]


@pytest.mark.parametrize("n", [2, 3, 4, 8])
def test_without_faults_everybody_applies_the_mean_of_all(n):
    group = SimulatedGroup(n, seed=n)
    group.begin()
    group.run()
    value = group.check()
    assert contributors(value) == [set(range(n))] * (2 * n)
    assert max(node.outcome.at for node in group.nodes) < 1.0
    assert not [event for event in group.events if event[2] in ("peer_lost", "takeover")]


def messages_of(n, seed):
    group = SimulatedGroup(n, seed=seed)
    group.begin()
    group.run()
    return [node.sent for node in group.nodes]


def crash_at(n, seed, victim, count, when):
    group = SimulatedGroup(
        n, seed=seed, on_send=lambda member, sent: when if (member, sent) == (victim, count) else None
    )
    group.begin()
    group.run()
    return group


@pytest.mark.parametrize("seed", range(3))
def test_four_members_survive_a_crash_at_every_message(seed):
    runs = 0
    for victim, sent in enumerate(messages_of(4, seed)):
        for count in range(1, sent + 1):
            for when in ("before", "after"):
                group = crash_at(4, seed, victim, count, when)
                value = group.check()
                survivors = {0, 1, 2, 3} - {victim}
                for members in contributors(value):
                    assert survivors <= members, (victim, count, when, members)
                assert max(group.nodes[i].outcome.at for i in survivors) < 5.0
                runs += 1
    assert runs > 100


def test_eight_members_survive_random_double_crashes():
    rng = random.Random(8)
    sent = messages_of(8, 0)
    for seed in range(60):
        victims = rng.sample(range(8), 2)
        plan = {victim: (rng.randint(1, sent[victim]), rng.choice(("before", "after"))) for victim in victims}
        group = SimulatedGroup(
            8,
            seed=seed,
            parts_each=1,
            on_send=lambda m, c, plan=plan: plan[m][1] if m in plan and plan[m][0] == c else None,
        )
        group.begin()
        group.run()
        group.check()


def test_without_a_majority_nobody_applies_anything_else_and_nobody_hangs():
    rng = random.Random(4)
    outcomes = set()
    sent = messages_of(4, 0)
    for seed in range(60):
        plan = {victim: rng.randint(1, sent[victim]) for victim in rng.sample(range(4), 2)}
        group = SimulatedGroup(
            4, seed=seed, on_send=lambda m, c, plan=plan: "after" if plan.get(m) == c else None
        )
        group.begin()
        group.run()
        group.check(may_abort=True)
        outcomes |= {(node.outcome.committed, node.outcome.reason) for node in group.nodes if node.outcome}
    assert (False, "2 of 4 members are gone") in outcomes


@pytest.mark.parametrize("seed", range(40))
def test_a_frozen_member_is_left_behind_and_never_applies_other_bytes(seed):
    rng = random.Random(seed)
    group = SimulatedGroup(4, seed=seed)
    victim = rng.randrange(4)
    group.sim.at(rng.uniform(0, 0.15), lambda: group.sim.freeze(victim))
    group.sim.at(20.0, lambda: (group.sim.thaw(victim), group._schedule(victim)))
    group.begin()
    group.run()
    group.check(may_abort=True)
    for i in {0, 1, 2, 3} - {victim}:
        assert group.nodes[i].outcome.committed, group.nodes[i].outcome
        assert group.nodes[i].outcome.at < 15


@pytest.mark.parametrize("seed", range(40))
def test_a_partition_never_splits_the_decision_and_the_majority_goes_on(seed):
    rng = random.Random(seed)
    n = 5
    group = SimulatedGroup(n, seed=seed)
    cut_off = rng.sample(range(n), 2)
    start, end = rng.uniform(0, 0.1), rng.uniform(0.2, 30)

    def each(action):
        for one in cut_off:
            for other in set(range(n)) - set(cut_off):
                action(one, other)

    group.sim.at(start, lambda: each(group.sim.cut))
    group.sim.at(end, lambda: each(group.sim.mend))
    group.begin()
    group.run()
    group.check(may_abort=True)
    for i in set(range(n)) - set(cut_off):
        assert group.nodes[i].outcome.committed


def test_a_member_that_never_countersigns_is_out_and_the_rest_average():
    group = SimulatedGroup(4, seed=1)
    group.sim.freeze(2)
    group.begin([0, 1, 3])
    group.run(until=30)
    value = group.check(alive=[0, 1, 3])
    assert contributors(value) == [{0, 1, 3}] * 8


def test_who_countersigns_after_the_decision_is_told_of_it():
    group = SimulatedGroup(4, seed=1)
    group.sim.freeze(2)
    group.begin([0, 1, 3])
    group.run(until=4.5)
    machine = group.nodes[0].machine
    assert machine.over
    effects = machine.handle(Received(2, Ready(group.signed.raw, b"")), group.sim.now)
    assert any(isinstance(getattr(effect, "message", None), Decided) for effect in effects)


def decided_without_the_third():
    """A group of four that has just decided, one of whom countersigned and has heard nothing since."""
    group = SimulatedGroup(4, seed=1)
    group.begin()
    group.sim.at(0.012, lambda: group.sim.freeze(2))
    group.run(until=4.5)
    machine = group.nodes[0].machine
    assert machine.over and not machine.finished
    assert machine.deadline == pytest.approx(group.nodes[0].outcome.at + 5.0, abs=0.2)
    return group.sim.now, machine


@pytest.mark.parametrize("event", [ResultTaken(2), Received(2, Fetch(0, bytes(32)))], ids=["taken", "asked"])
def test_whoever_has_what_a_member_on_a_slow_link_lacks_stays_until_it_is_there(event):
    now, machine = decided_without_the_third()
    for seconds in (0.0, 4.0, 8.0):
        machine.handle(event, now + seconds)
        assert machine.deadline == pytest.approx(now + seconds + 5.0)
    machine.handle(Received(2, Sealed(0)), now + 9.0)
    assert machine.finished


@pytest.mark.parametrize("event", [Received(2, Alive()), ResultTaken(1)], ids=["idle", "done"])
def test_nobody_stays_for_a_member_that_wants_nothing(event):
    now, machine = decided_without_the_third()
    before = machine.deadline
    machine.handle(event, now)
    assert machine.deadline == before


def test_nobody_stays_for_ever():
    now, machine = decided_without_the_third()
    while not machine.finished and now < 1000:
        now = min(machine.deadline, now + 1.0)
        machine.handle(ResultTaken(2), now)
    assert machine.finished and now < 125


def test_who_stood_still_before_it_countersigned_drops_the_round():
    group = SimulatedGroup(4, seed=1)
    (abort,) = group.nodes[2].machine.start(b"", 10.0)
    assert isinstance(abort, Abort) and "stood still for 10.0 s" in abort.reason
    assert group.nodes[2].machine.over
    for late in (0.0, 0.5):  # a busy computer
        effects = group.nodes[1].machine.start(b"", late)
        assert not any(isinstance(effect, Abort) for effect in effects)


def test_a_client_sends_but_never_reduces_and_an_auxiliary_reduces_but_does_not_count():
    group = SimulatedGroup(4, seed=2, weights=[1, 1, 1, 0], roles=["full", "client", "full", "auxiliary"])
    group.begin()
    group.run()
    assert contributors(group.check()) == [{0, 1, 2}] * 8
    assert not [e for e in group.events if e[1] == 1 and e[2] == "result_sent"]


def test_the_same_seed_gives_the_same_history():
    def trace(seed):
        group = crash_at(4, seed, 1, 5, "after")
        return group.sim.trace_hash

    assert trace(7) == trace(7)
    assert trace(7) != trace(8)


@pytest.mark.parametrize("noise", [False, True])
def test_a_group_of_which_half_never_came_ends_within_seconds(noise):
    group = SimulatedGroup(4, seed=1)
    for absent in (2, 3):
        group.sim.crash(absent)
    group.begin([0, 1])
    events = [(0.05, Received(2, Decline("it follows another leader, or none")))]
    events += [(float(second), Heard(2, 10)) for second in range(1, 60) if noise]  # of another group
    for at, event in events:
        for member in (0, 1):
            group.sim.at(at, lambda member=member, event=event: group._event(member, event))
    group.run()
    for node in group.nodes[:2]:
        assert not node.outcome.committed
        assert "did not countersign" in node.outcome.reason
        assert node.outcome.at < 10.0
