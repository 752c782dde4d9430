"""Whole runs over the in-memory network in virtual time: average, rotate, lose members, join late."""

import numpy as np
import pytest
import trio
from averaging_swarm import swarm

from moshgrid.averaging.part_work import inline, work_on_parts
from moshgrid.p2p.errors import ConfigurationError, SchemaMismatch
from moshgrid.p2p.testing import run_virtual


async def step_all(peers, reports, weight=1.0, rounds=1):
    async def one(peer):
        reports[peer.id] = await peer.core.step(peer.arrays, weight, rounds)

    async with trio.open_nursery() as nursery:
        for peer in peers:
            nursery.start_soon(one, peer)


def flat(peer):
    return np.concatenate([array.reshape(-1) for array in peer.arrays])


@pytest.mark.parametrize("count", [2, 3, 4])
def test_one_group_averages_exactly(count):
    async def main():
        async with swarm(count, seed=count) as group:
            before = np.mean([flat(peer) for peer in group.peers], axis=0)
            reports = {}
            await step_all(group.peers, reports)
            for peer in group.peers:
                report = reports[peer.id]
                assert report.committed, report
                assert set(report.group) == {p.id for p in group.peers}
                assert report.contributors == {p.id: 1.0 for p in group.peers}
                assert report.completeness == 1.0
                np.testing.assert_allclose(flat(peer), before, rtol=2e-6, atol=1e-7)
            assert len({report.digest for report in reports.values()}) == 1
            assert {peer.core.round for peer in group.peers} == {1}

    run_virtual(main)


def test_weights_count():
    async def main():
        async with swarm(2, seed=9) as group:
            one, two = (flat(peer) for peer in group.peers)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(group.peers[0].core.step, group.peers[0].arrays, 3.0, 1)
                nursery.start_soon(group.peers[1].core.step, group.peers[1].arrays, 1.0, 1)
            np.testing.assert_allclose(flat(group.peers[0]), 0.75 * one + 0.25 * two, rtol=1e-5, atol=1e-6)

    run_virtual(main)


@pytest.mark.parametrize("seed", range(5))
def test_eight_peers_converge_in_groups_of_four(seed):
    async def main():
        async with swarm(8, seed=seed) as group:
            mean = np.mean([flat(peer) for peer in group.peers], axis=0)
            groups = set()
            for _ in range(2):
                reports = {}
                await step_all(group.peers, reports)
                assert all(report.committed for report in reports.values())
                assert all(len(report.group) == 4 for report in reports.values())
                groups |= {frozenset(report.group) for report in reports.values()}
            # Two full groups re-drawn by chunk index: exact after two rounds.
            for peer in group.peers:
                np.testing.assert_allclose(flat(peer), mean, rtol=1e-5, atol=1e-6)
            assert len(groups) == 4, "the groups did not rotate"

    run_virtual(main)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("event", ["manifest", "exchange_started", "result_sent"])
def test_a_member_that_dies_mid_round_is_reported_and_the_rest_average(seed, event):
    async def main():
        async with swarm(4, seed=seed) as group:
            victim = group.peers[seed % 4]

            crashes = []

            def crash(entry):
                if entry["event"] == event and not crashes:
                    crashes.append(entry)
                    group.crash(victim)

            victim.host.events.add_sink(crash)
            survivors = [peer for peer in group.peers if peer is not victim]
            reports = {}
            with trio.fail_after(60):
                victim.host.nursery.start_soon(victim.core.step, victim.arrays, 1.0, 1)
                await step_all(survivors, reports)
                assert crashes
            digests = {reports[peer.id].digest for peer in survivors}
            assert all(reports[peer.id].committed for peer in survivors), reports
            assert len(digests) == 1
            for peer in survivors:
                report = reports[peer.id]
                # Died as the leader before it told anybody: then the rest formed a group without it.
                if victim.id in report.group:
                    assert victim.id in report.dropped
                assert all(report.contributors[p.id] == 1.0 for p in survivors)
            assert len({flat(peer).tobytes() for peer in survivors}) == 1
            # and the survivors go on
            reports = {}
            await step_all(survivors, reports)
            assert all(report.committed for report in reports.values())

    run_virtual(main, seed=seed)


def test_a_latecomer_gets_the_newest_sealed_state_from_its_peers():
    async def main():
        async with swarm(4, seed=3) as group:
            newcomer_arrays = [np.zeros(24, np.float32), np.zeros((3, 2), np.float32)]
            assert await group.peers[0].core.state.fetch() is None
            for _ in range(2):
                await step_all(group.peers, {})
            late = await group.add(newcomer_arrays)
            snapshot = await late.core.state.fetch()
            assert snapshot.round == 2
            assert len(snapshot.donors) >= 2
            got = np.concatenate([array.reshape(-1) for array in snapshot.arrays])
            assert any((got == flat(peer)).all() for peer in group.peers)
            reports = {}
            await step_all(group.peers, reports)
            assert {report.round for report in reports.values()} == {3}

    run_virtual(main)


def test_a_latecomer_that_is_overtaken_adds_nothing_until_it_has_caught_up():
    async def main():
        async with swarm(3, seed=3) as group:
            await step_all(group.peers, {})
            late = await group.add([np.full_like(array, 9.0) for array in group.peers[0].arrays])
            snapshot = await late.core.state.fetch()
            assert snapshot.round == 1 and not late.core.state.behind
            await step_all(group.peers[:3], {})  # the others go on without it
            await late.core._membership.refresh()
            assert late.core.state.behind
            reports = {}
            before = np.mean([flat(peer) for peer in group.peers[:3]], axis=0)
            await step_all(group.peers, reports)
            report = reports[late.id]
            assert report.committed and len(report.group) == 4, report
            assert late.id not in report.contributors
            np.testing.assert_allclose(flat(late), before, rtol=2e-6, atol=1e-6)
            assert not late.core.state.behind
            await step_all(group.peers, reports)
            assert reports[late.id].contributors[late.id] == 1.0

    run_virtual(main)


def test_alone_a_step_changes_nothing_and_says_why():
    async def main():
        async with swarm(1) as group:
            before = flat(group.peers[0])
            report = await group.peers[0].core.step(group.peers[0].arrays, 1.0, 1)
            assert not report.committed
            assert "no other peer" in report.reason
            assert (flat(group.peers[0]) == before).all()
            assert group.peers[0].names()[-1] == "no_group"

    run_virtual(main)


def test_a_group_in_which_nobody_counts_averages_nothing_and_says_so():
    async def main():
        async with swarm(2, seed=4) as group:
            reports = {}
            await step_all(group.peers, reports, weight=0.0)
            assert not any(report.committed for report in reports.values())
            assert any("nobody in the group had a weight" in report.reason for report in reports.values())

    run_virtual(main)


def test_a_peer_without_weight_takes_the_average_and_adds_nothing():
    async def main():
        async with swarm(3, seed=5) as group:
            before = [flat(peer) for peer in group.peers]
            async with trio.open_nursery() as nursery:
                for peer, weight in zip(group.peers, (1.0, 1.0, 0.0), strict=True):
                    nursery.start_soon(peer.core.step, peer.arrays, weight, 1)
            for peer in group.peers:
                np.testing.assert_allclose(flat(peer), (before[0] + before[1]) / 2, rtol=1e-5, atol=1e-6)

    run_virtual(main)


def test_a_bug_in_a_round_costs_the_round_and_not_the_node():
    async def main():
        async with swarm(2, seed=6) as group:

            async def broken(function, *args):
                if function is work_on_parts and args[0].__name__ == "_average":
                    raise ZeroDivisionError("a bug")
                return await inline(function, *args)

            group.peers[0].core._offload = broken
            before = flat(group.peers[0])
            reports = {}
            await step_all(group.peers, reports)
            assert not reports[group.peers[0].id].committed
            assert "internal error" in reports[group.peers[0].id].reason
            assert (flat(group.peers[0]) == before).all()
            group.peers[0].core._offload = inline
            await step_all(group.peers, reports)
            assert all(report.committed for report in reports.values())

    run_virtual(main)


def test_wrong_arrays_are_refused_before_anything_is_sent():
    async def main():
        async with swarm(1) as group:
            core = group.peers[0].core
            with pytest.raises(SchemaMismatch, match="array 1"):
                await core.step([np.zeros(24, np.float32), np.zeros((2, 3), np.float32)], 1.0, 1)
            with pytest.raises(ConfigurationError, match="NaN"):
                await core.step([np.full(24, np.nan, np.float32), np.zeros((3, 2), np.float32)], 1.0, 1)

    run_virtual(main)


def test_events_tell_the_story_in_order():
    async def main():
        async with swarm(3, seed=1) as group:
            await step_all(group.peers, {})
            for peer in group.peers:
                names = [name for name in peer.names() if name != "result_sent"]
                assert names[-4:] == ["manifest", "exchange_started", "sealed", "applied"]

    run_virtual(main)
