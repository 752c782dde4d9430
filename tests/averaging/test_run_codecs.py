"""Rounds with small codecs, several codecs at once, and references, over the in-memory network."""

import numpy as np
import pytest
import trio
from averaging_swarm import swarm

from moshgrid.compression import CodecPlan, codec_names, get_codec
from moshgrid.p2p.errors import ConfigurationError, SchemaMismatch
from moshgrid.p2p.testing import run_virtual


async def step_all(peers, references=None, rounds=1):
    reports = {}

    async def one(peer, reference):
        reports[peer.id] = await peer.core.step(peer.arrays, 1.0, rounds, reference)

    async with trio.open_nursery() as nursery:
        for peer, reference in zip(peers, references or [None] * len(peers), strict=True):
            nursery.start_soon(one, peer, reference)
    return [reports[peer.id] for peer in peers]


def flat(peer):
    return np.concatenate([array.reshape(-1) for array in peer.arrays])


@pytest.mark.parametrize("name", codec_names()[:14])
def test_a_round_works_with_every_codec(name):
    async def main():
        async with swarm(3, seed=5, size=3000, compression=name) as group:
            mean = np.mean([flat(peer) for peer in group.peers], axis=0)
            reports = await step_all(group.peers)
            for peer, report in zip(group.peers, reports, strict=True):
                assert report.committed and report.codec == name and report.reference == ""
                error = np.linalg.norm(flat(peer) - mean) / np.linalg.norm(mean)
                assert error < {"spike2": 0.9, "quantile8": 0.1}.get(name, 0.4)
            assert len({flat(peer).tobytes() for peer in group.peers}) == 1
            values = sum(get_codec(name).encoded_bytes(1002, np.dtype(np.float32)) for _ in range(3))
            assert reports[0].bytes_sent < 3 * values

    run_virtual(main)


def test_each_tensor_travels_with_its_own_codec():
    plan = CodecPlan(large="int4", small="none", small_below=100)

    async def main():
        async with swarm(3, seed=6, size=5000, compression=plan) as group:
            large = np.mean([peer.arrays[0] for peer in group.peers], axis=0)
            small = np.mean([peer.arrays[1] for peer in group.peers], axis=0)
            reports = await step_all(group.peers)
            assert all(report.committed and report.codec == "int4+none" for report in reports), reports
            for peer in group.peers:
                np.testing.assert_allclose(peer.arrays[1], small, rtol=1e-5, atol=1e-6)
                assert 0.01 < np.abs(peer.arrays[0] - large).max() < 1
            late = await group.add([np.zeros(5000, np.float32), np.zeros((3, 2), np.float32)])
            snapshot = await late.core.state.fetch()
            for got, have in zip(snapshot.arrays, group.peers[0].arrays, strict=True):
                assert (got == have).all()

    run_virtual(main)


def test_members_with_different_plans_do_not_mix():
    async def main():
        async with swarm(1, seed=7, compression="int8") as group:
            group._config = {**group._config, "compression": ["int8", "none"]}
            await group.add(group.peers[0].arrays)
            reports = await step_all(group.peers)
            assert not any(report.committed for report in reports)

    run_virtual(main)


def near(group, reference, spread, seed=0):
    """Gives every peer the reference and a little of its own."""
    rng = np.random.default_rng(seed)
    for peer in group.peers:
        for array, base in zip(peer.arrays, reference, strict=True):
            array[...] = base + spread * rng.standard_normal(base.shape)


def references(group, scale=1000.0):
    rng = np.random.default_rng(9)
    return [(scale * rng.standard_normal(array.shape)).astype(np.float32) for array in group.peers[0].arrays]


@pytest.mark.parametrize("name", ["int8", "int4", "none", "spike4"])
def test_with_a_shared_reference_the_error_is_in_proportion_to_the_difference(name):
    async def main():
        async with swarm(4, seed=8, size=2000, compression=name) as group:
            reference = references(group)
            near(group, reference, 0.01)
            mean = np.mean([flat(peer).astype(np.float64) for peer in group.peers], axis=0)
            shared = [[array.copy() for array in reference] for _ in group.peers]
            reports = await step_all(group.peers, shared)
            assert all(report.committed and report.codec == name for report in reports), reports
            assert len({report.reference for report in reports}) == 1 and len(reports[0].reference) == 64
            assert len({flat(peer).tobytes() for peer in group.peers}) == 1
            # float32 itself is off by 3e-5 here; float16 would be off by 0.25.
            assert np.abs(flat(group.peers[0]) - mean).max() < 0.005
            late = await group.add([np.zeros(2000, np.float32), np.zeros((3, 2), np.float32)])
            snapshot = await late.core.state.fetch()
            assert np.concatenate([array.reshape(-1) for array in snapshot.arrays]).tobytes() == (
                flat(group.peers[0]).tobytes()
            )

    run_virtual(main)


@pytest.mark.parametrize("odd", ["other", "none"])
def test_a_group_without_a_common_reference_sends_float16(odd):
    async def main():
        async with swarm(4, seed=10, size=2000, compression="int8") as group:
            reference = references(group, scale=1.0)
            near(group, reference, 0.01)
            mean = np.mean([flat(peer).astype(np.float64) for peer in group.peers], axis=0)
            shared = [reference] * 3 + [None if odd == "none" else [array + 1 for array in reference]]
            reports = await step_all(group.peers, shared)
            assert all(report.committed for report in reports), reports
            assert {(report.codec, report.reference) for report in reports} == {("float16", "")}
            assert np.abs(flat(group.peers[0]) - mean).max() < 0.004
            assert len({flat(peer).tobytes() for peer in group.peers}) == 1

    run_virtual(main)


def test_without_any_reference_the_chosen_codec_is_used():
    async def main():
        async with swarm(2, seed=11, compression="int8") as group:
            assert {report.codec for report in await step_all(group.peers)} == {"int8"}

    run_virtual(main)


def test_a_reference_holds_for_all_rounds_of_a_step():
    async def main():
        async with swarm(4, seed=12, size=500, compression="int4") as group:
            reference = references(group)
            near(group, reference, 0.01)
            reports = await step_all(group.peers, [reference] * 4, rounds=2)
            assert all(report.committed and report.reference for report in reports)

    run_virtual(main)


def test_a_reference_must_have_the_runs_shapes_and_be_near_enough():
    async def main():
        async with swarm(2, seed=13, compression="int8") as group:
            peer = group.peers[0]
            with pytest.raises(SchemaMismatch):
                await peer.core.step(peer.arrays, 1.0, 1, peer.arrays[:1])
            far = [np.full_like(array, -3e38) for array in peer.arrays]
            peer.arrays[0][0] = 3e38
            with pytest.raises(ConfigurationError, match="differ from the reference"):
                await peer.core.step(peer.arrays, 1.0, 1, far)

    run_virtual(main)
