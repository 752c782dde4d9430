"""Sixteen processes on a 4 × 4 grid: the mean of all in two rounds, by the sliding index and by a plan."""

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from moshgrid.dht import DHT
from moshgrid.p2p import Node

PEERS, SIDE, ELEMENTS = 16, 4, 1000


def end(process):
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_sixteen_processes_on_a_four_by_four_grid_reach_the_mean_in_two_rounds():
    script = Path(__file__).with_name("grid_process.py")
    with ExitStack() as stack:
        node = stack.enter_context(Node(listen=["/ip4/127.0.0.1/tcp/0"]))
        stack.enter_context(DHT(node))
        processes = []
        for rank in range(PEERS):
            process = subprocess.Popen(
                [sys.executable, str(script), node.addrs[0], str(rank), str(PEERS), str(SIDE)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(end, process)
            processes.append(process)
        for process in processes:
            assert "ready" in json.loads(process.stdout.readline())
        # At first no plan is there; one drawn after the first round is in force from the fourth on.
        for seed in range(3):
            for process in processes:
                process.stdin.write(f"{seed}\n")
                process.stdin.flush()
            told = [json.loads(process.stdout.readline()) for process in processes]
            seen = [(one["rounds"], [len(group) for group in one["groups"]], one["reasons"]) for one in told]
            assert {len(group) for one in told for group in one["groups"]} == {SIDE}, (seed, seen)
            assert len({tuple(sorted(one["groups"][0])) for one in told}) == SIDE
            assert {tuple(one["rounds"]) for one in told} == {(2 * seed + 1, 2 * seed + 2)}
            values = [np.random.default_rng([seed, rank]).normal(size=ELEMENTS) for rank in range(PEERS)]
            mean = np.mean(np.float32(values).astype(np.float64), axis=0)
            if seed == 1:
                continue  # the sliding index gives way to the plan in the middle of these two
            for one in told:
                np.testing.assert_allclose(one["vector"], mean, rtol=0, atol=1e-6)
