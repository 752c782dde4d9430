"""Who comes late, who does not come, and who is alone: groups still fill, and nobody waits for nothing."""

import random

import pytest
import trio
from averaging_swarm import swarm

from moshgrid.p2p.testing import run_virtual


async def step_over(peers, seconds, rng):
    """Everybody steps once, beginning at moments spread over so many seconds."""
    reports, called = {}, []

    async def one(peer):
        await trio.sleep(rng.uniform(0, seconds))
        called.append(trio.current_time())
        reports[peer.id] = await peer.core.step(peer.arrays, 1.0, 1)

    async with trio.open_nursery() as nursery:
        for peer in peers:
            nursery.start_soon(one, peer)
    return reports, trio.current_time() - max(called)


@pytest.mark.parametrize(
    ("count", "size", "topology", "seed"),
    [(8, 8, "moshpit", 0), (16, 4, "moshpit", 2)]
    + [pytest.param(*case, marks=pytest.mark.slow) for case in ((16, 8, "moshpit", 1), (16, 4, "sliding", 3))]
    + [pytest.param(16, 4, "moshpit", seed, marks=pytest.mark.slow) for seed in range(4, 24)],
)
def test_peers_that_arrive_over_two_seconds_form_full_groups(count, size, topology, seed):
    """From the fourth round on a grid plan is in force, where the topology has one."""

    async def main():
        rng = random.Random(seed)
        async with swarm(count, seed=seed, group_size=size, topology=topology) as group:
            for number in range(5 if size == 4 else 3):
                reports, seconds = await step_over(group.peers, 2.0, rng)
                sizes = {name: len(report.group) for name, report in reports.items()}
                assert set(sizes.values()) == {size}, (number, sizes)
                assert seconds < 1.0, "nobody waits once the last has come"
            plan = group.peers[0].core._plans.in_force(number + 1)
            assert (plan is not None) == (topology == "moshpit" and size == 4)

    run_virtual(main, seed=seed)


def test_a_group_whose_members_all_come_late_meets_though_another_has_sealed_the_round():
    async def main():
        async with swarm(8, seed=5, group_size=4) as group:
            in_order = sorted(group.peers, key=lambda peer: peer.id)
            reports = {}
            for late in (False, True):  # the first groups are every other peer, by order
                async with trio.open_nursery() as nursery:
                    for number, peer in enumerate(in_order[late::2]):

                        async def step(peer, delay):
                            await trio.sleep(delay)
                            reports[peer.id] = await peer.core.step(peer.arrays, 1.0, 1)

                        nursery.start_soon(step, peer, 0.3 * number)
                await trio.sleep(0.5)
            assert {(report.round, len(report.group)) for report in reports.values()} == {(1, 4)}

    run_virtual(main)


def test_full_groups_and_those_that_cannot_fill_begin_at_once():
    async def main():
        rng = random.Random(1)
        for count, most in ((8, 0.1), (4, 0.5)):
            async with swarm(count, seed=count, group_size=8) as group:
                for number in range(5):
                    reports, seconds = await step_over(group.peers, 0.05, rng)
                    assert {len(report.group) for report in reports.values()} == {count}
                    await trio.sleep(0.2)
                    assert number == 0 or seconds <= most + 0.3, "matching and a round of five latencies"

    run_virtual(main)


def test_who_stops_taking_part_is_waited_for_a_few_rounds_only():
    async def main():
        rng = random.Random(2)
        async with swarm(5, seed=3, group_size=8) as group:
            for _ in range(2):
                await step_over(group.peers, 0.05, rng)
            waited = []
            for _ in range(6):
                reports, seconds = await step_over(group.peers[:4], 0.05, rng)
                assert {len(report.group) for report in reports.values()} == {4}
                waited.append(seconds)
            assert max(waited[-2:]) < 0.6

    run_virtual(main)


def test_a_lone_peer_trains_on_and_finds_company_when_it_comes():
    async def main():
        rng = random.Random(3)
        async with swarm(1, seed=4, group_size=8) as group:
            for _ in range(3):
                (report,) = (await step_over(group.peers, 0.0, rng))[0].values()
                assert not report.committed
                assert "no other peer" in report.reason
            await group.add([array + 1 for array in group.peers[0].arrays])
            reports, _ = await step_over(group.peers, 0.5, rng)
            assert all(report.committed for report in reports.values())

    run_virtual(main)


def test_who_differs_in_codec_is_told_so():
    async def main():
        async with swarm(2, seed=5, group_size=8) as group:
            group._config["compression"] = "int8"
            odd = await group.add([array + 0 for array in group.peers[0].arrays])
            told = []
            for _ in range(8):  # in some rounds the others are gone before they see this one
                reports, _ = await step_over(group.peers, 0.0, random.Random(5))
                assert [len(reports[peer.id].group) for peer in group.peers[:2]] == [2, 2]
                told.append(reports[odd.id].reason)
            assert any("cannot average with this one" in reason and "codec" in reason for reason in told)

    run_virtual(main)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_after_crashes_and_newcomers_at_once_groups_fill_again(seed):
    """The newcomers read that the dead are there, and follow the plan of those who know better."""

    async def main():
        rng = random.Random(seed)
        async with swarm(16, seed=seed, group_size=4) as group:
            peers = list(group.peers)
            for _ in range(4):
                await step_over(peers, 2.0, rng)
            for peer in rng.sample(peers, 2):
                group.crash(peer)
                peers.remove(peer)
            newcomers = [await group.add([array * 0 for array in peers[0].arrays]) for _ in range(2)]
            for peer in newcomers:
                await peer.core.state.fetch()
            assert all(peer.core._membership.doubtful for peer in newcomers)
            for number in range(9):
                reports, _ = await step_over(peers + newcomers, 2.0, rng)
                sizes = [len(report.group) for report in reports.values()]
                assert number < 6 or sizes == [4] * 16, (number, sizes)

    run_virtual(main, seed=seed)
