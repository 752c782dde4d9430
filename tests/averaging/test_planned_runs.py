"""Whole runs that draw grid plans and follow them, in virtual time."""

import random
from itertools import pairwise

import numpy as np
import pytest
from averaging_swarm import step_all, swarm

from moshgrid.averaging.grid_plan import GridPlan, member_list
from moshgrid.p2p.testing import run_virtual


def plan_of(peer, number):
    return peer.core._plans.in_force(number)


def scatter(peers, rng):
    for peer in peers:
        for array in peer.arrays:
            array[...] = rng.normal(size=array.shape)


def test_a_run_draws_a_plan_and_reaches_the_mean_in_as_many_rounds_as_axes():
    async def main():
        rng = np.random.default_rng(0)
        async with swarm(12, seed=1) as group:
            for number in (1, 2, 3):
                reports = await step_all(group.peers, 300)
                assert all(report.committed for report in reports.values()), number
            for number in (4, 6):
                plans = {plan_of(peer, number) for peer in group.peers}
                assert len(plans) == 1
                assert plans.pop().record.dims == (3, 4)
                scatter(group.peers, rng)
                mean = np.mean([peer.arrays[0] for peer in group.peers], axis=0)
                for _ in range(2):
                    reports = await step_all(group.peers, 300)
                    assert all(report.committed for report in reports.values())
                for peer in group.peers:
                    np.testing.assert_allclose(peer.arrays[0], mean, atol=1e-6)

    run_virtual(main)


def test_a_latecomer_is_in_the_next_plan_and_seldom_alone_before():
    async def main():
        async with swarm(11, seed=2) as group:
            for _ in range(3):
                await step_all(group.peers, 300)
            late = await group.add([np.zeros(24, np.float32), np.zeros((3, 2), np.float32)])
            await late.core.state.fetch()
            alone = []
            for _ in range(5):
                reports = await step_all(group.peers, 300)
                alone.append(not reports[late.id].committed)
            assert late.id in plan_of(late, late.core.round + 1).members
            assert not any(one and two for one, two in pairwise(alone)), alone

    run_virtual(main)


@pytest.mark.parametrize(
    ("count", "seed"),
    [(10, 0), *(pytest.param(20, seed, marks=pytest.mark.slow) for seed in range(12))],
)
def test_peers_that_see_two_plans_or_none_follow_one_within_three_rounds(count, seed):
    """30 % see one plan, 30 % another, 40 % none."""

    async def main():
        rng = random.Random(seed)
        async with swarm(count, seed=seed, group_size=5) as group:
            names = sorted(peer.id for peer in group.peers)
            one = GridPlan.drawn(1, 1, names, 5)
            left_out = rng.choice(names)
            other = GridPlan.drawn(1, 1, [name for name in names if name != left_out], 5)
            seen = [one] * (3 * count // 10) + [other] * (3 * count // 10) + [None] * (4 * count // 10)
            rng.shuffle(seen)
            for peer, plan in zip(group.peers, seen, strict=True):
                if plan is not None:
                    peer.core._plans.book.learned(plan, names)
                    peer.core._plans._blobs.keep(member_list(plan.members))
            followed, missed = [], []
            for _ in range(4):
                followed.append({plan_of(peer, peer.core.round + 1) for peer in group.peers})
                reports = await step_all(group.peers, 300)
                missed.append({name for name, report in reports.items() if not report.committed})
            assert len(followed[0]) == 3
            assert len(followed[2]) == 1
            assert None not in followed[2]
            assert not any(one & two for one, two in pairwise(missed))

    run_virtual(main, seed=seed)
