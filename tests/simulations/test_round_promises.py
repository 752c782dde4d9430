"""The seal's promises over many seeds: crashes at every message, double crashes, freezes, partitions.

Minutes of work; ``make simulate`` runs it, the default suite holds samples of the same.
"""

import random

import pytest
from round_simulation import SimulatedGroup

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def run(n, seed, on_send=None, disturb=None, **kw):
    group = SimulatedGroup(n, seed=seed, on_send=on_send, **kw)
    if disturb:
        disturb(group)
    group.begin()
    group.run()
    return group


def contributors(value):
    return [{member for member, _ in part} for part in value]


@pytest.mark.parametrize("seed", range(100))
def test_four_members_a_crash_at_every_message(seed):
    sent = [node.sent for node in run(4, seed).nodes]
    for victim, count in ((v, c) for v in range(4) for c in range(1, sent[v] + 1)):
        for when in ("before", "after"):
            group = run(4, seed, lambda m, c, v=victim, k=count, w=when: w if (m, c) == (v, k) else None)
            for members in contributors(group.check()):
                assert {0, 1, 2, 3} - {victim} <= members, (seed, victim, count, when)


@pytest.mark.parametrize("block", range(20))
def test_eight_members_random_double_crashes(block):
    rng = random.Random(block)
    for seed in range(block * 500, block * 500 + 500):
        plan = {v: (rng.randint(1, 80), rng.choice(("before", "after"))) for v in rng.sample(range(8), 2)}
        crash = lambda m, c, plan=plan: plan[m][1] if m in plan and plan[m][0] == c else None  # noqa: E731
        run(8, seed, crash, parts_each=1).check()


@pytest.mark.parametrize("block", range(10))
def test_freezes_cuts_and_crashes_together_never_split_the_decision(block):
    for seed in range(block * 200, block * 200 + 200):
        rng = random.Random(seed)
        n = rng.choice((3, 4, 5, 6, 7))

        def disturb(group, rng=rng, n=n):
            for _ in range(rng.randint(1, 4)):
                one, other = rng.sample(range(n), 2)
                start, end = rng.uniform(0, 0.3), rng.uniform(0.3, 40)
                if rng.random() < 0.4:
                    group.sim.at(start, lambda m=one: group.sim.freeze(m))
                    group.sim.at(end, lambda m=one: (group.sim.thaw(m), group._schedule(m)))
                elif rng.random() < 0.7:
                    group.sim.at(start, lambda a=one, b=other: group.sim.cut(a, b))
                    group.sim.at(end, lambda a=one, b=other: group.sim.mend(a, b))
                else:
                    group.sim.at(start, lambda m=one: group.crash(m))

        run(n, seed, disturb=disturb, parts_each=1).check(may_abort=True)
