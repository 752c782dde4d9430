"""Averaging between peers that can reach each other through a relay only."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from victim import until

from moshgrid.averaging import Averager, RoundReport
from moshgrid.p2p import Node

LOCAL = ["/ip4/127.0.0.1/tcp/0"]


@pytest.mark.parametrize("size", [2, 4])
def test_peers_that_nobody_can_dial_average_through_their_relay(size):
    with Node(listen=LOCAL, relay=True) as relay:
        homes = [Node(listen=[], bootstrap=relay.addrs) for _ in range(size)]
        try:
            for home in homes:
                home.call(until, lambda home=home: home.addrs != (), 10.0)
            arrays = [[np.full(300_000, float(number), np.float32)] for number in range(size)]
            averagers = [
                Averager(home, run_id="far", like=mine, min_group_size=size, group_size=size)
                for home, mine in zip(homes, arrays, strict=True)
            ]
            reports: dict[int, RoundReport] = {}

            def step(number: int) -> None:
                reports[number] = averagers[number].step(arrays[number])

            threads = [threading.Thread(target=step, args=(number,)) for number in range(size)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert [reports[number].committed for number in range(size)] == [True] * size, reports
            for mine in arrays:
                assert np.allclose(mine[0], (size - 1) / 2)
            for home in homes:
                others = {each.peer_id for each in homes} - {home.peer_id}
                assert not any(home.host.network.is_direct(other) for other in others)
        finally:
            for home in homes:
                home.close()
