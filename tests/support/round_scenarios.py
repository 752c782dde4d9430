"""What may befall a group in a round, each by its seed, with the promises that must hold after it."""

import random

from round_simulation import SimulatedGroup

from moshgrid.averaging.suspicion import PaceBook


def run(n, seed, disturb=None, **kw):
    group = SimulatedGroup(n, seed=seed, **kw)
    if disturb:
        disturb(group)
    group.begin()
    group.run()
    return group


def contributors(value):
    return [{member for member, _ in part} for part in value]


def crash_at_every_message(seed, n=4):
    """Every member crashes around every message of its round. The number of rounds run."""
    sent = [node.sent for node in run(n, seed).nodes]
    rounds = 0
    for victim, count in ((v, c) for v in range(n) for c in range(1, sent[v] + 1)):
        for when in ("before", "after"):
            crash = lambda m, c, v=victim, k=count, w=when: w if (m, c) == (v, k) else None  # noqa: E731
            group = run(n, seed, on_send=crash)
            survivors = set(range(n)) - {victim}
            for members in contributors(group.check()):
                assert survivors <= members, (seed, victim, count, when)
            assert max(group.nodes[i].outcome.at for i in survivors) < 5.0, (seed, victim, count, when)
            rounds += 1
    return rounds


def double_crash(seed):
    """Two of eight crash, each around some message."""
    rng = random.Random(seed)
    plan = {v: (rng.randint(1, 80), rng.choice(("before", "after"))) for v in rng.sample(range(8), 2)}
    crash = lambda m, c: plan[m][1] if m in plan and plan[m][0] == c else None  # noqa: E731
    group = run(8, seed, on_send=crash, parts_each=1)
    for members in contributors(group.check()):
        assert set(range(8)) - plan.keys() <= members, seed
    assert max(group.nodes[i].outcome.at for i in set(range(8)) - group.sim.dead) < 15.0, seed


def partition(seed):
    """The group falls into two halves that do not hear each other for a while, or for good."""
    rng = random.Random(seed)
    n = rng.randint(3, 8)
    away = set(rng.sample(range(n), rng.randint(1, n - 1)))
    start, end = rng.uniform(0, 0.2), rng.choice((rng.uniform(0.2, 2), rng.uniform(2, 40), 1000.0))

    def disturb(group):
        for action, at in ((group.sim.cut, start), (group.sim.mend, end)):
            for one in away:
                for other in set(range(n)) - away:
                    group.sim.at(at, lambda act=action, a=one, b=other: act(a, b))

    group = run(n, seed, disturb, parts_each=1)
    value = group.check(may_abort=True)
    larger = away if len(away) * 2 > n else set(range(n)) - away
    if len(larger) * 2 > n:
        for member in larger:
            outcome = group.nodes[member].outcome
            assert outcome.committed, (seed, member, outcome)
            # What was lost before the mending is waited for as long as a peer of unknown rate may take.
            assert outcome.at < 65.0, (seed, member, outcome)
        assert value is not None
    return group


def one_link_cut(seed):
    """Two members do not hear each other any more; everybody else hears everybody."""
    rng = random.Random(seed)
    n = rng.randint(3, 8)
    one, other = rng.sample(range(n), 2)
    at = rng.uniform(0, 0.2)
    group = run(n, seed, lambda g: g.sim.at(at, lambda: g.sim.cut(one, other)), parts_each=1)
    for members in contributors(group.check()):
        assert set(range(n)) - {one, other} <= members, seed


class HastyBook(PaceBook):
    """Suspects some members much too soon."""

    def __init__(self, rng):
        super().__init__()
        self._rng = rng

    def silence_limit(self, peer):
        return self._rng.uniform(0.005, 0.2) if self._rng.random() < 0.4 else super().silence_limit(peer)


def false_suspicion(seed):
    """Nothing happens to anybody, but members are suspected. The number of wrong suspicions."""
    rng = random.Random(seed)
    n = rng.randint(3, 8)
    group = run(n, seed, parts_each=1, books=[HastyBook(rng) for _ in range(n)])
    group.check()
    assert max(node.outcome.at for node in group.nodes) < 40.0, seed
    return sum(event[2] == "peer_lost" for event in group.events)


def freeze_and_wake(seed):
    """Fewer than half stand still for a while. Whether one of those that woke up dropped its round."""
    rng = random.Random(seed)
    n = rng.randint(3, 8)
    victims = rng.sample(range(n), rng.randint(1, (n - 1) // 2))
    start, length = rng.uniform(0, 0.15), rng.choice((rng.uniform(0.05, 3), rng.uniform(3, 40)))

    def disturb(group):
        for victim in victims:
            group.sim.at(start, lambda v=victim: group.sim.freeze(v))
            group.sim.at(start + length, lambda v=victim: group.wake(v))

    group = run(n, seed, disturb, parts_each=1)
    value = group.check(may_abort=True)
    for member in set(range(n)) - set(victims):
        outcome = group.nodes[member].outcome
        assert outcome.committed, (seed, member, outcome)
        assert outcome.at < 20.0, (seed, member, outcome)
    for members in contributors(value):
        assert set(range(n)) - set(victims) <= members, seed
    woken = [group.nodes[victim].outcome for victim in victims]
    for outcome in woken:
        if length > 3.2 and outcome.at >= start + length:
            assert not outcome.committed, (seed, outcome)
            assert "stood still" in outcome.reason, (seed, outcome)
            assert outcome.at < start + length + 0.5, (seed, outcome)
    return any(not outcome.committed for outcome in woken)


def mixture(seed):
    """Freezes, cut links and crashes, however many: whatever is applied is the same everywhere."""
    rng = random.Random(seed)
    n = rng.choice((3, 4, 5, 6, 7))

    def disturb(group):
        for _ in range(rng.randint(1, 4)):
            one, other = rng.sample(range(n), 2)
            start, end = rng.uniform(0, 0.3), rng.uniform(0.3, 40)
            if rng.random() < 0.4:
                group.sim.at(start, lambda m=one: group.sim.freeze(m))
                group.sim.at(end, lambda m=one: group.wake(m))
            elif rng.random() < 0.7:
                group.sim.at(start, lambda a=one, b=other: group.sim.cut(a, b))
                group.sim.at(end, lambda a=one, b=other: group.sim.mend(a, b))
            else:
                group.sim.at(start, lambda m=one: group.crash(m))

    run(n, seed, disturb, parts_each=1).check(may_abort=True)
