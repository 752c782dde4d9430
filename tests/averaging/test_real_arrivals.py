"""Real nodes that arrive over two seconds: full groups, and no number given by the user."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest

from moshgrid.averaging import Averager
from moshgrid.dht import DHT
from moshgrid.p2p import Node

LOOPBACK = ["/ip4/127.0.0.1/tcp/0"]
PEERS, ROUNDS, SECONDS = 8, 3, 2.0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_eight_nodes_that_arrive_over_two_seconds_form_a_full_group_each_time():
    rng = np.random.default_rng(0)
    arrays = [np.full(1000, rank, np.float32) for rank in range(PEERS)]
    with ExitStack() as stack, ThreadPoolExecutor(PEERS) as pool:
        first = stack.enter_context(Node(listen=LOOPBACK))
        stack.enter_context(DHT(first))
        nodes = [first]
        nodes += [stack.enter_context(Node(listen=LOOPBACK, bootstrap=first.addrs)) for _ in arrays[1:]]
        averagers = [
            stack.enter_context(Averager(node, "arriving", like=[array]))
            for node, array in zip(nodes, arrays, strict=True)
        ]
        never = threading.Event()
        while any(len(averager.peers) < PEERS for averager in averagers):
            never.wait(0.05)

        def arrive(averager, array, after):
            never.wait(after)
            return averager.step([array])

        for _ in range(ROUNDS):
            after = rng.uniform(0, SECONDS, PEERS)
            reports = list(pool.map(arrive, averagers, arrays, after))
            assert {len(report.group) for report in reports} == {PEERS}, [str(report) for report in reports]
            assert len({report.digest for report in reports}) == 1
            matching = min(report.seconds_matching for report in reports)
            reducing = max(report.seconds_reducing for report in reports)
            print(f"the last to come matched in {matching:.2f} s, then {reducing:.2f} s")
        assert all((array == np.float32(3.5)).all() for array in arrays)
