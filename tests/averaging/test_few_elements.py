"""Fewer elements than peers: most own no part at all, and still take part, hold the mean, and may die."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
import trio
from averaging_swarm import step_all, swarm

from moshgrid.averaging import Averager
from moshgrid.dht import DHT
from moshgrid.p2p import Node
from moshgrid.p2p.testing import run_virtual

LOOPBACK = ["/ip4/127.0.0.1/tcp/0"]
PEERS = 8


@pytest.mark.slow
def test_eight_nodes_average_one_element():
    arrays = [np.float32([2.0**rank]) for rank in range(PEERS)]
    with ExitStack() as stack, ThreadPoolExecutor(PEERS) as pool:
        first = stack.enter_context(Node(listen=LOOPBACK))
        stack.enter_context(DHT(first))
        nodes = [first]
        nodes += [stack.enter_context(Node(listen=LOOPBACK, bootstrap=first.addrs)) for _ in arrays[1:]]
        averagers = [
            stack.enter_context(
                Averager(
                    node, "one", like=[array], group_size=PEERS, min_group_size=PEERS, compression="none"
                )
            )
            for node, array in zip(nodes, arrays, strict=True)
        ]
        reports = list(pool.map(lambda pair: pair[0].step([pair[1]]), zip(averagers, arrays, strict=True)))
    assert all(report.committed and report.completeness == 1.0 for report in reports), reports
    assert len({report.digest for report in reports}) == 1
    assert [array[0] for array in arrays] == [255 / PEERS] * PEERS


@pytest.mark.parametrize(("elements", "codec"), [(1, "none"), (2, "float16"), (5, "int8"), (1, "spike4")])
def test_whoever_owns_no_part_takes_part_all_the_same(elements, codec):
    async def main():
        async with swarm(0, group_size=PEERS, topology="single", compression=codec) as group:
            values = np.random.default_rng(elements).integers(-64, 64, (PEERS, elements)).astype(np.float32)
            for row in values:
                await group.add([np.zeros((0, 2), np.float32), row.copy()])
            reports = await step_all(group.peers, 60)
            owners = [
                event for peer in group.peers for event in peer.events if event["event"] == "result_sent"
            ]
            assert 1 <= len(owners) <= elements < PEERS
            for peer in group.peers:
                assert reports[peer.id].committed and len(reports[peer.id].group) == PEERS
                atol = {"none": 1e-5, "float16": 0.05, "int8": 1.0}.get(codec, 10.0)
                np.testing.assert_allclose(peer.arrays[1], values.mean(axis=0), rtol=0, atol=atol)
            assert len({peer.arrays[1].tobytes() for peer in group.peers}) == 1

    run_virtual(main)


@pytest.mark.parametrize("seed", range(2))
def test_the_only_owner_dies_and_one_without_a_part_takes_over(seed):
    async def main():
        async with swarm(0, seed=seed, group_size=PEERS, topology="single") as group:
            for rank in range(PEERS):
                await group.add([np.float32([rank])])
            reports = {}
            dead = []

            def kill(peer):
                def sink(entry):
                    owns = not dead and entry["event"] == "exchange_started"
                    driver = next(iter(peer.core._rounds._live.values())) if owns else None
                    if driver and driver.signed.peers[driver.signed.parts[0].owner] == peer.id:
                        dead.append(peer)
                        group.crash(peer)

                return sink

            for peer in group.peers:
                peer.host.events.add_sink(kill(peer))

            done = trio.Event()

            async def one(peer):
                reports[peer.id] = await peer.core.step(peer.arrays, 1.0, 1)
                if len(reports) == PEERS - 1:
                    done.set()

            with trio.fail_after(60):
                for peer in group.peers:
                    peer.host.nursery.start_soon(one, peer)
                await done.wait()
            alive = [peer for peer in group.peers if peer not in dead]
            assert len(dead) == 1 and all(reports[peer.id].committed for peer in alive), reports
            assert len({peer.arrays[0].tobytes() for peer in alive}) == 1
            rest = sum(range(PEERS)) - group.peers.index(dead[0])
            left, whole = rest / (PEERS - 1), sum(range(PEERS)) / PEERS  # it may have given its value first
            assert min(abs(alive[0].arrays[0][0] - mean) for mean in (left, whole)) < 1e-6

    run_virtual(main, seed=seed)
